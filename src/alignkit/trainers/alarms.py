"""Signs that reinforcement learning is going wrong, read from what is logged; each is told once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

IN_A_ROW = 3
"""Logging steps that must agree before an alarm is raised."""


@dataclass
class Alarms:
    """Reads each log line. What it remembers is plain data, and goes into checkpoints.

    - entropy collapse: below 5 % of what it was at first, while the reward is not at its best;
    - zero spread: nine groups in ten have equal rewards, so that there is nothing to learn from;
    - length blow-up: three times as long as at first, and more than half cut off;
    - reward hacking: the reward has risen since the best held-out check, and that check has fallen by more than two
      standard errors.
    """

    first: dict[str, float] = field(default_factory=dict)
    streaks: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    reward: float | None = None
    best_reward: float = float("-inf")
    best_check: tuple[float, float] | None = None  # the best held-out exact match, and the reward at that time

    def read(self, logs: Mapping[str, Any], held_out: int = 0) -> list[str]:
        """New alarms of this log line, as sentences. `held_out`: how many prompts the held-out check has."""
        if "eval_exact_match" in logs:
            return self._check(float(logs["eval_exact_match"]), held_out)
        if not isinstance(logs.get("reward"), int | float):
            return []
        self.reward = float(logs["reward"])
        self.best_reward = max(self.best_reward, self.reward)
        return [*self._entropy(logs), *self._spread(logs), *self._length(logs)]

    def _streak(self, name: str, bad: bool, sentence: str) -> list[str]:
        self.streaks[name] = self.streaks.get(name, 0) + 1 if bad else 0
        if self.streaks[name] < IN_A_ROW or name in self.told:
            return []
        self.told.append(name)
        return [sentence]

    def _entropy(self, logs: Mapping[str, Any]) -> list[str]:
        entropy = logs.get("entropy")
        if not isinstance(entropy, int | float):
            return []
        first = self.first.setdefault("entropy", float(entropy))
        assert self.reward is not None
        bad = entropy < 0.05 * first and self.reward < self.best_reward - 0.05 * abs(self.best_reward)
        text = (
            f"the entropy has collapsed, from {first:.3g} to {entropy:.3g}, and the reward is below its best: "
            "the model tries nothing new; lower training.learning_rate, or raise training.temperature or training.beta"
        )
        return self._streak("entropy", bad, text)

    def _spread(self, logs: Mapping[str, Any]) -> list[str]:
        share = logs.get("frac_reward_zero_std")
        if not isinstance(share, int | float):
            return []
        text = (
            f"in {share:.0%} of the groups all completions have the same reward, so nothing is learned from them; see "
            "`alignkit reward-test`, take prompts that are neither solved nor hopeless, or raise num_generations"
        )
        return self._streak("zero_spread", share >= 0.9, text)

    def _length(self, logs: Mapping[str, Any]) -> list[str]:
        length, cut = logs.get("completions/mean_length"), logs.get("completions/clipped_ratio")
        if not isinstance(length, int | float) or not isinstance(cut, int | float):
            return []
        first = self.first.setdefault("length", float(length))
        text = (
            f"completions have grown from {first:.0f} to {length:.0f} tokens, and {cut:.0%} are cut off; add a length "
            "reward, raise training.max_completion_length, or set training.mask_truncated_completions"
        )
        return self._streak("length", length > 3 * first and cut > 0.5, text)

    def _check(self, check: float, held_out: int) -> list[str]:
        if self.reward is None:
            return []
        if self.best_check is None or check >= self.best_check[0]:
            self.best_check = (check, self.reward)
            return []
        best, reward_then = self.best_check
        error = (best * (1 - best) / max(held_out, 1) + check * (1 - check) / max(held_out, 1)) ** 0.5
        if "hacking" in self.told or self.reward <= reward_then or best - check <= max(2 * error, 0.01):
            return []
        self.told.append("hacking")
        return [
            f"the reward has risen from {reward_then:.3g} to {self.reward:.3g} while held-out exact match has fallen "
            f"from {best:.3g} to {check:.3g}: the reward may be gamed; read the samples, and try `alignkit reward-test`"
        ]

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, tuple(value) if isinstance(value, list) and name == "best_check" else value)
