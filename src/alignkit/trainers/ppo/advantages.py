"""PPO's arithmetic as pure functions of tensors: KL estimators, where rewards go, GAE, whitening, the value loss.

Shapes: B completions of at most T tokens. `mask` (B, T) is 1 at tokens that the policy chose and that take part, 0 at
padding, at the output of tools, and in rows that no reward function could score. A value belongs to the state *before*
a token, so that values have one column more: V[:, t] before token t, V[:, T] after the last one.

Statistics over the whole batch take `reduce`, a function that sums a tensor over all processes; the default is one
process alone.

Sources: Schulman et al., "High-dimensional continuous control using generalized advantage estimation", 2016 (GAE);
Schulman et al., "Proximal policy optimization algorithms", 2017 (PPO); Schulman, "Approximating KL divergence", 2020
(k1, k2, k3); Huang et al., "The N+ implementation details of RLHF with PPO", 2024 (N+); Yue et al., "VAPO", 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over all processes."""

PositionRewards = Sequence[float] | Mapping[int, float]
"""One reward a token, or {position: reward} for a few of them; a negative position counts from the end."""


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """`reduce` for a single process."""
    return tensor


# ---------------------------------------------------------------------- KL
def kl_estimate(logps: torch.Tensor, others: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimates of KL(policy ‖ other) from log-probabilities of tokens that the policy drew (Schulman 2020).

    k1 = log p − log q: unbiased, and below zero for many tokens. k2 = (log p − log q)² / 2: biased, never negative; as
    a loss its gradient is that of the KL. k3 = q/p − 1 − log(q/p): unbiased and never negative, with heavy tails.
    """
    difference = logps - others
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    assert estimator == "k3", estimator
    return torch.expm1(-difference) + difference


# ---------------------------------------------------------------------- where rewards go
def last_positions(mask: torch.Tensor) -> torch.Tensor:
    """(B,): the last position of each row whose mask is 1; 0 for an empty row."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * (mask > 0)).amax(dim=1)


def place_at_end(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) scores of whole completions -> (B, T) rewards, each at its row's last token (N+, detail 2: at the EOS)."""
    rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    rewards.scatter_(1, last_positions(mask)[:, None], scores[:, None])
    return rewards * (mask > 0)


def place_at_positions(given: PositionRewards, length: int) -> list[float]:
    """One row's dense rewards as a list of `length` numbers.

    Raises:
        ValueError: another number of rewards than tokens, or a position that the completion does not have.
    """
    if not isinstance(given, Mapping):
        if len(given) != length:
            raise ValueError(f"{len(given)} token rewards for a completion of {length} tokens")
        return [float(value) for value in given]
    row = [0.0] * length
    for position, value in given.items():
        if not -length <= position < length:
            raise ValueError(f"a reward for position {position} of a completion of {length} tokens")
        row[position] += float(value)
    return row


# ---------------------------------------------------------------------- advantages
def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """GAE (Schulman et al. 2016, equation 16): A_t = Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} − V_t.

    A position whose mask is 0 is no step: from the token before it the next state is the one before the next token
    whose mask is 1, and after a row's last such token comes V[:, T] (0 for an episode that ended; a bootstrap where it
    was cut).

    Args:
        rewards: (B, T).
        values: (B, T + 1); the last column is the value after each row's last token.
        mask: (B, T).

    Returns:
        (B, T), zero where the mask is 0.
    """
    advantages = torch.zeros_like(rewards)
    following = values[:, -1]
    carried = torch.zeros_like(following)
    for t in range(rewards.shape[1] - 1, -1, -1):
        acts = mask[:, t] > 0
        delta = rewards[:, t] + gamma * following - values[:, t]
        carried = torch.where(acts, delta + gamma * lam * carried, carried)
        following = torch.where(acts, values[:, t], following)
        advantages[:, t] = torch.where(acts, carried, 0.0)
    return advantages


# ---------------------------------------------------------------------- statistics over the global batch
def masked_moments(x: torch.Tensor, mask: torch.Tensor, reduce: Reduce = alone) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, population variance) of `x` where the mask is 1, over all processes; 0 and 0 of nothing."""
    taken = x.double() * (mask > 0)
    count, total = reduce(torch.stack([(mask > 0).sum().double(), taken.sum()]))
    mean = total / count.clamp(min=1)
    squares = reduce(((x.double() - mean).square() * (mask > 0)).sum())
    return mean, squares / count.clamp(min=1)


def whiten(
    x: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True, reduce: Reduce = alone, eps: float = 1e-8
) -> torch.Tensor:
    """`x` with variance 1 over the global batch and, with `shift_mean`, mean 0; zero where the mask is 0.

    Rewards are whitened without shifting their mean, which would change what is optimal (N+, detail 17).
    """
    mean, variance = masked_moments(x, mask, reduce)
    whitened = (x.double() - mean) * torch.rsqrt(variance + eps)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.to(x.dtype) * (mask > 0)


def explained_variance(
    values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, reduce: Reduce = alone
) -> torch.Tensor:
    """1 − Var(returns − values) / Var(returns): 1 is a perfect critic, 0 a constant, below 0 worse than one.

    NaN where all returns are alike, and there is nothing to explain.
    """
    _, unexplained = masked_moments(returns - values, mask, reduce)
    _, variance = masked_moments(returns, mask, reduce)
    return torch.where(variance > 1e-10, 1 - unexplained / variance, torch.nan)


# ---------------------------------------------------------------------- the value loss
def value_errors(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each state's ½ max((V − R)², (clip(V, V_old ± ε) − R)²), and where the clipped one was larger (bool).

    Huang et al., "The 37 implementation details of PPO", 2022, detail 9. `cliprange` None: ½ (V − R)², nothing clipped.
    """
    plain = (values - returns).square() / 2
    if cliprange is None:
        return plain, torch.zeros_like(plain, dtype=torch.bool)
    clipped = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    held = (clipped - returns).square() / 2
    return torch.max(plain, held), held > plain
