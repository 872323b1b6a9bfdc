"""A recipe's rewards together: asked at once, answered in order, and what can't be used counted and shown."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from alignkit.errors import RunFailed
from alignkit.rewards.call import Answer, Call, Failure, text_of
from alignkit.rewards.isolation import Isolated, Refused

WINDOW = 256
"""Samples over which the share of failures is taken."""
logger = logging.getLogger("alignkit.rewards")

Scorer = Isolated | Callable[[Call], Answer]


@dataclass
class Reward:
    """One entry of `rewards:`, ready to be asked."""

    name: str
    weight: float
    scorer: Scorer
    max_failed: float = 0.25
    where: str = ""
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    told: int = 0


@dataclass
class Scored:
    """What one reward said of N samples. `values`: numbers, or None for no reward; where a sample was scored per token,
    `per_token` holds those numbers and `values` their sum."""

    values: list[float | None]
    per_token: list[list[float] | None]
    failed: int
    answer: Answer


class Mixture:
    """All rewards of a recipe.

    Args:
        token_level: whether the method can use a reward for each token.
    """

    def __init__(self, rewards: Sequence[Reward], token_level: bool = False) -> None:
        self.rewards = list(rewards)
        self.token_level = token_level

    @property
    def names(self) -> list[str]:
        return [reward.name for reward in self.rewards]

    @property
    def weights(self) -> list[float]:
        return [reward.weight for reward in self.rewards]

    def start(self, call: Call) -> Pending:
        """Ask every reward that runs apart, and return; the others are asked when their answers are wanted."""
        asked = [reward.scorer.ask(call) if isinstance(reward.scorer, Isolated) else None for reward in self.rewards]
        return Pending(self, call, asked)

    def score(self, call: Call) -> list[Scored]:
        """Ask and wait. Raises RunFailed where a reward fails too often."""
        return self.start(call).wait()

    def close(self) -> None:
        for reward in self.rewards:
            if isinstance(reward.scorer, Isolated):
                reward.scorer.close()


@dataclass
class Pending:
    """A call that is being answered."""

    mixture: Mixture
    call: Call
    asked: list[Future[Answer] | None]

    def wait(self) -> list[Scored]:
        """One Scored for each reward, in the recipe's order."""
        found = []
        for reward, future in zip(self.mixture.rewards, self.asked, strict=True):
            try:
                answer = future.result() if future is not None else self._ask_here(reward)
            except Refused as error:
                raise RunFailed(f"the reward {reward.name} can't be started again: {error}") from error
            found.append(self._checked(reward, answer))
        return found

    def _ask_here(self, reward: Reward) -> Answer:
        assert not isinstance(reward.scorer, Isolated)
        return reward.scorer(self.call)

    def _checked(self, reward: Reward, answer: Answer) -> Scored:
        values: list[float | None] = []
        per_token: list[list[float] | None] = []
        failures: dict[int, str] = {}
        for place, value in enumerate(answer.values):
            made = usable(value, len(self.call.completion_ids[place]), self.mixture.token_level)
            if isinstance(made, Failure):
                failures[place], made = made.reason, None
            per_token.append(made if isinstance(made, list) else None)
            values.append(sum(made) if isinstance(made, list) else made)
            reward.recent.append(place in failures)
        if failures:
            self._tell(reward, failures)
        return Scored(values, per_token, len(failures), answer)

    def _tell(self, reward: Reward, failures: dict[int, str]) -> None:
        """Log each failing sample (the first is a warning of the run), and end the run if there are too many."""
        for place, reason in failures.items():
            level = logging.WARNING if reward.told == 0 else logging.INFO
            logger.log(level, "reward %s: no reward: %s; %s", reward.name, reason, self._shown(place))
            reward.told += 1
        failed, seen = sum(reward.recent), len(reward.recent)
        if failed <= reward.max_failed * max(seen, 16):
            return
        # What was not tried says nothing; the sample that is shown failed by itself.
        place = next((place for place, why in failures.items() if not why.startswith("not tried")), min(failures))
        raise RunFailed(
            f"the reward {reward.name}{reward.where} gave no usable reward for {failed} of the last {seen} samples, "
            f"more than rewards[].max_failed allows ({reward.max_failed:.0%}): {failures[place]}; "
            f"for example: {self._shown(place)}; try it with `alignkit reward-test`"
        )

    def _shown(self, place: int) -> str:
        call = self.call
        name = call.columns["example_id"][place] if "example_id" in call.columns else f"sample {place}"
        prompt, said = (" ".join(text_of(one[place]).split()) for one in (call.prompts, call.completions))
        return f"{name}, prompt {_cut(prompt)!r}, completion {_cut(said)!r}"


def _cut(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:120]} … {text[-30:]}"


def usable(value: Any, tokens: int, token_level: bool) -> float | list[float] | Failure | None:
    """A reward as it is used: a finite number, one for each of the completion's `tokens`, None, or why it is none."""
    if value is None or isinstance(value, Failure):
        return value
    if isinstance(value, bool | int | float):
        return float(value) if math.isfinite(value) else Failure(f"it returned {value}")
    if not token_level:
        return Failure("it returned rewards for each token or step, which this method has no use for")
    if isinstance(value, dict):
        outside = [place for place in value if not 0 <= place < tokens]
        if outside:
            return Failure(f"it rewards token {outside[0]} of {tokens}")
        return [float(value.get(place, 0.0)) for place in range(tokens)]
    if len(value) != tokens:
        return Failure(f"it returned {len(value)} numbers for {tokens} tokens")
    return [float(one) for one in value]
