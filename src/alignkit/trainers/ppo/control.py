"""What PPO keeps in mind between rollouts: the KL coefficient and the running statistics of the scores."""

from __future__ import annotations

import math
from typing import Any


class KLController:
    """The KL coefficient β: fixed, or adapted towards a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target − 1, −0.2, 0.2);  β ← β · (1 + e · samples / horizon)

    Args:
        coefficient: the first β.
        target: KL to the reference in nats a completion; None keeps β fixed.
        horizon: completions over which β changes by about its error.
    """

    def __init__(self, coefficient: float, target: float | None = None, horizon: int = 10_000) -> None:
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, samples: int) -> None:
        """Take in the mean KL (nats a completion) of `samples` completions."""
        if self.target is not None and math.isfinite(kl):
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * samples / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coefficient = state["coefficient"]


class RunningScores:
    """Mean and variance of all scores so far, joined batch by batch (Chan et al. 1979, equation 1.5)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update(self, count: float, mean: float, variance: float) -> None:
        """Take in a batch of `count` scores with this mean and population variance."""
        if count == 0:
            return
        total, shift = self.count + count, mean - self.mean
        self.squares += variance * count + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation; 1 as long as all scores were alike."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-8 else 1.0

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
