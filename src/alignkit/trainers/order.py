"""The order of prompts: upstream's, but the same again after a resume; and one that leaves out what teaches nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler

DECAY = 0.9
"""Weight of what was seen of a prompt before, at each further visit."""
FLOOR = 0.1
"""The chance of a prompt that has always, or never, been solved."""


class EpochRepeatSampler(RepeatSampler):
    """TRL's RepeatSampler with an order that is a function of (seed, epoch): a resumed run sees what it would have.

    Upstream's draws each epoch's order from one generator, which starts anew after a resume. Epoch 0 is upstream's.
    """

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(self.seed + epoch)


class Difficulty:
    """A rolling estimate of each prompt's success rate, from the rewards of its completions.

    A completion counts as solved when its reward lies in the upper half of the range of rewards seen so far. The
    estimate is the mean of a beta distribution with a uniform prior, whose counts decay by DECAY at each visit.
    """

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.counts: dict[Hashable, tuple[float, float]] = {}  # solved, tried
        self.visits = 0
        self.left_out = 0

    def update(self, prompts: Sequence[Hashable], rewards: Sequence[float]) -> None:
        """Take in the rewards of one generation: (N,) each; samples without a reward are not among them."""
        if not rewards:
            return
        self.low, self.high = min(self.low, *rewards), max(self.high, *rewards)
        middle = (self.low + self.high) / 2
        now: dict[Hashable, list[bool]] = {}
        for prompt, reward in zip(prompts, rewards, strict=True):
            now.setdefault(prompt, []).append(reward > middle)
        for prompt, solved in now.items():
            before = self.counts.get(prompt, (0.0, 0.0))
            self.counts[prompt] = (DECAY * before[0] + sum(solved), DECAY * before[1] + len(solved))
        self.visits += len(now)

    def rate(self, prompt: Hashable) -> float:
        """The estimated success rate; 0.5 of a prompt that was never tried."""
        solved, tried = self.counts.get(prompt, (0.0, 0.0))
        return (solved + 1) / (tried + 2)

    def chance(self, prompt: Hashable) -> float:
        """With what probability a prompt is taken when its turn comes: 4 p (1 - p), which is the spread of its rewards
        as a share of the largest possible, and never below FLOOR."""
        rate = self.rate(prompt)
        return max(FLOOR, 4 * rate * (1 - rate))

    def figures(self) -> dict[str, float]:
        """For the log: shares of the prompts seen that are (nearly) always or never solved, and what was left out."""
        rates = [self.rate(prompt) for prompt in self.counts]
        seen = max(1, len(rates))
        return {
            "difficulty/always_solved": sum(rate > 0.9 for rate in rates) / seen,
            "difficulty/never_solved": sum(rate < 0.1 for rate in rates) / seen,
            "difficulty/left_out": float(self.left_out),
        }

    def state(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def restore(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class DifficultySampler(EpochRepeatSampler):
    """Walks through the prompts in random order, as often as an epoch takes, and passes over some by their chance.

    Its draws depend on what was learned of the prompts meanwhile, so they are kept: after a resume those made before
    are made again as they were, and the next ones go on from the generator's state.
    """

    def __init__(self, names: Sequence[Hashable], difficulty: Difficulty, **options: Any) -> None:
        super().__init__(names, **options)
        self.names, self.difficulty = names, difficulty
        self.epoch = 0
        self.drawn: list[list[int]] = []
        self.queue: list[int] = []
        self._again: dict[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.drawn, self.queue = [], []
        known: list[list[int]] = []
        if self._again is not None and self._again["epoch"] == self.epoch:
            known, self.queue = self._again["drawn"], list(self._again["queue"])
            self.generator.set_state(self._again["generator"])
        self._again = None
        self.drawn = list(known)
        for number in range(self.num_samples // self.batch_size):
            if number >= len(known):
                self.drawn.append(self._draw())
            chunk = self.drawn[number]
            for _ in range(self.repeat_count):
                for index in chunk:
                    yield from [index] * self.mini_repeat_count

    def _draw(self) -> list[int]:
        """The next prompts that are taken, no prompt twice among them."""
        chunk: list[int] = []
        while len(chunk) < self.batch_size:
            if not self.queue:
                self.queue = torch.randperm(self.num_samples, generator=self.generator).tolist()
            index = self.queue.pop(0)
            if index in chunk:
                continue
            if float(torch.rand((), generator=self.generator)) < self.difficulty.chance(self.names[index]):
                chunk.append(index)
            else:
                self.difficulty.left_out += 1
        return chunk

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "drawn": self.drawn,
            "queue": self.queue,
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._again = state
