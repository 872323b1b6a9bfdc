"""What PPO's figures say when something is wrong, in words, with what usually causes it."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

RATIO_LIMIT = 10.0
"""A token's probability under the new policy over that under the old one, past which an update is no small step."""
PATIENCE = 20
"""Rollouts in a row that the critic may be worse than a constant."""
QUIET = 100
"""Rollouts before the same alarm sounds again."""

NEGATIVE_KL = (
    "the KL to the reference is below zero (%.4f nats a completion, %.1f standard errors): completions are not drawn "
    "from the distribution they are scored with. Usual causes: top_k, top_p, min_p or repetition_penalty, which the "
    "log-probabilities leave out; dropout; a generation engine that computes other probabilities"
)
RATIO = (
    "a token became %.3g times as likely (or 1/%.3g) within one rollout. Usual causes: learning_rate too high, too "
    "many epochs (num_iterations) for one rollout, no target_kl; if it happens in the first epoch, generation and "
    "training compute different probabilities"
)
CRITIC = (
    "the critic has explained less than nothing of the returns for %d rollouts in a row (explained variance %.2f). "
    "Usual causes: critic_learning_rate too low or too high, vf_coef too small for a shared backbone, rewards of a "
    "large or drifting scale (normalize_scores), no critic_warmup_steps"
)


@dataclass
class Alarms:
    """Watches the figures of one run."""

    below_zero: int = 0
    _rollouts: int = 0
    _sounded: dict[str, int] = field(default_factory=dict)

    def rollout(self, kl: float | None, kl_error: float, explained: float | None) -> None:
        """Take in one rollout: mean KL (nats a completion) with its standard error, and explained variance."""
        self._rollouts += 1
        if kl is not None and kl < -max(4 * kl_error, 1e-3):
            self._sound(NEGATIVE_KL, kl, -kl / max(kl_error, 1e-12))
        if explained is not None and math.isfinite(explained):
            self.below_zero = self.below_zero + 1 if explained < 0 else 0
            if self.below_zero >= PATIENCE:
                self._sound(CRITIC, self.below_zero, explained)

    def update(self, ratio_min: float, ratio_max: float) -> None:
        """Take in the extreme ratios of one pass over a micro-batch."""
        worst = max(ratio_max, 1 / max(ratio_min, 1e-30))
        if not worst < RATIO_LIMIT:
            self._sound(RATIO, worst, worst)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _sound(self, text: str, *values: float) -> None:
        if self._rollouts - self._sounded.get(text, -QUIET) >= QUIET:
            self._sounded[text] = self._rollouts
            logger.warning(text, *values)
