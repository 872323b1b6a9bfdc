"""Reward functions that credit single tokens or steps, beside TRL's one number a completion."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from trl.trainer.utils import is_async_callable

from alignkit.trainers.ppo.advantages import place_at_positions


class TokenRewards:
    """What one reward function gave to single tokens of a batch's completions.

    Attributes:
        rows: one list of token rewards a completion, or None where the function gave a whole completion's score.
    """

    def __init__(self) -> None:
        self.rows: list[list[float] | None] = []

    def take(self, given: list[Any], completion_ids: list[list[int]]) -> list[float | None]:
        """Keep the rows that are no numbers, and return the numbers that TRL expects: such a row's sum."""
        self.rows, scores = [], []
        for value, ids in zip(given, completion_ids, strict=True):
            value = value.tolist() if hasattr(value, "tolist") else value
            dense = place_at_positions(value, len(ids)) if isinstance(value, Mapping | list | tuple) else None
            self.rows.append(dense)
            scores.append(value if dense is None else sum(dense))
        return scores


def keeping_token_rewards(function: Callable[..., Any], kept: TokenRewards) -> Callable[..., Any]:
    """`function` as TRL calls it, of which `kept` remembers the token rewards of the last batch."""
    if is_async_callable(function):

        async def wrapped(completion_ids: list[list[int]], **others: Any) -> list[float | None]:
            return kept.take(await function(completion_ids=completion_ids, **others), completion_ids)
    else:

        def wrapped(completion_ids: list[list[int]], **others: Any) -> list[float | None]:  # type: ignore[misc]
            return kept.take(function(completion_ids=completion_ids, **others), completion_ids)

    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    wrapped.__name__ = getattr(inner, "__name__", type(inner).__name__)  # TRL names the metric by it
    return wrapped


def weighted(
    kept: Sequence[TokenRewards], weights: Sequence[float], completion_ids: Sequence[Sequence[int]]
) -> torch.Tensor | None:
    """(N, T): the weighted sum of what the functions gave to single tokens, or None where none did."""
    if not any(row is not None for one in kept for row in one.rows):
        return None
    total = torch.zeros(len(completion_ids), max(map(len, completion_ids)))
    for one, weight in zip(kept, weights, strict=True):
        for place, row in enumerate(one.rows):
            if row is not None:
                total[place, : len(row)] += weight * torch.tensor(row)
    return total
