"""From what was drawn and how it was scored to advantages and the critic's targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from alignkit.trainers.ppo.advantages import (
    Reduce,
    alone,
    generalized_advantages,
    kl_estimate,
    last_positions,
    masked_moments,
    place_at_end,
    whiten,
)
from alignkit.trainers.ppo.control import RunningScores

if TYPE_CHECKING:
    from alignkit.trainers.ppo.config import PPOConfig


@dataclass(frozen=True)
class Rollout:
    """B completions of at most T tokens, as drawn and scored on this process.

    Attributes:
        mask: (B, T), 1 at the tokens that the policy chose, in rows that were scored.
        ended: (B,) bool, whether the completion has its stop token.
        logps: (B, T) of the policy that drew them.
        ref_logps: (B, T) of the reference, or None without one.
        values: (B, T + 1), before each token and after the last; zeros without a critic.
        scores: (B,) of whole completions, weighted and added up.
        token_rewards: (B, T), weighted and added up.
    """

    mask: torch.Tensor
    ended: torch.Tensor
    logps: torch.Tensor
    ref_logps: torch.Tensor | None
    values: torch.Tensor
    scores: torch.Tensor
    token_rewards: torch.Tensor


@dataclass(frozen=True)
class Judged:
    """What a rollout teaches.

    Attributes:
        advantages: (B, T), whitened where the configuration says so.
        raw_advantages: (B, T), before that.
        returns: (B, T + 1), the critic's targets.
        states: (B, T + 1), 1 at the states that have a target: before each chosen token and, one more than there are
            tokens, after the stop token, where nothing is to come (N+, "value mask one longer").
        rewards: (B, T), score and KL penalty together, before whitening.
        kl: (B, T), per-token KL to the reference by the configured estimator; zeros without a reference.
        scores: (B,), each completion's whole score after penalties, normalising and clipping.
    """

    advantages: torch.Tensor
    raw_advantages: torch.Tensor
    returns: torch.Tensor
    states: torch.Tensor
    rewards: torch.Tensor
    kl: torch.Tensor
    scores: torch.Tensor


def judge(
    rollout: Rollout,
    config: PPOConfig,
    kl_coefficient: float,
    running: RunningScores | None = None,
    reduce: Reduce = alone,
    *,
    learn_scores: bool = True,
) -> Judged:
    """Rewards, advantages (GAE) and returns of a rollout.

    Args:
        running: statistics for `normalize_scores`, which take this batch in unless `learn_scores` is False.
    """
    mask = rollout.mask
    rewards, scores = _score_rewards(rollout, config, running, reduce, learn_scores)
    kl = torch.zeros_like(rollout.logps)
    if rollout.ref_logps is not None:
        kl = kl_estimate(rollout.logps, rollout.ref_logps, config.kl_estimator) * mask
        if config.kl_in == "reward":
            rewards = rewards - kl_coefficient * kl
    learned = whiten(rewards, mask, shift_mean=False, reduce=reduce) if config.whiten_rewards else rewards

    values = _values_in_time(rollout, config)
    raw = generalized_advantages(learned, values, mask, config.gamma, config.lam)
    target = raw
    if config.critic_lam is not None and config.critic_lam != config.lam:
        target = generalized_advantages(learned, values, mask, config.gamma, config.critic_lam)
    states, returns = _targets(rollout, target + values[:, :-1] * mask)
    advantages = whiten(raw, mask, reduce=reduce) if config.whiten_advantages else raw
    return Judged(advantages, raw, returns, states, rewards, kl, scores)


def _score_rewards(
    rollout: Rollout, config: PPOConfig, running: RunningScores | None, reduce: Reduce, learn: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) rewards without KL, and (B,) whole scores: penalised, normalised, clipped, in this order."""
    scored = rollout.mask.amax(dim=1) > 0
    terminal, dense = rollout.scores * scored, rollout.token_rewards * rollout.mask
    if config.missing_eos_penalty is not None:
        terminal = terminal - config.missing_eos_penalty * (~rollout.ended & scored)
    if config.normalize_scores:
        assert running is not None
        if learn:
            mean, variance = masked_moments(terminal + dense.sum(1), scored, reduce)
            running.update(float(reduce(scored.sum())), float(mean), float(variance))
        terminal, dense = (terminal - running.mean) / running.std, dense / running.std
    if config.score_clip is not None:
        total = terminal + dense.sum(1)
        terminal = terminal + total.clamp(-config.score_clip, config.score_clip) - total
    return dense + place_at_end(terminal, rollout.mask), (terminal + dense.sum(1)) * scored


def _values_in_time(rollout: Rollout, config: PPOConfig) -> torch.Tensor:
    """(B, T + 1): values before each token, and in the last column what follows each row's last one."""
    after = torch.zeros_like(rollout.values[:, 0])
    if config.bootstrap_truncated:
        end = last_positions(rollout.mask) + 1
        after = torch.where(rollout.ended, after, rollout.values.gather(1, end[:, None]).squeeze(1))
    return torch.cat([rollout.values[:, :-1], after[:, None]], dim=1)


def _targets(rollout: Rollout, returns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States that have a target (B, T + 1) and the targets: `returns` (B, T), and 0 after a stop token."""
    nothing = torch.zeros_like(returns[:, :1])
    states = torch.cat([rollout.mask.to(returns.dtype), nothing], dim=1)
    finished = (rollout.ended & (rollout.mask.amax(dim=1) > 0)).to(returns.dtype)
    states.scatter_(1, last_positions(rollout.mask)[:, None] + 1, finished[:, None])
    return states, torch.cat([returns * rollout.mask, nothing], dim=1)
