"""Passes that are alike are simulated once.

A rollout's log-probabilities are taken in chunks of a micro-batch, with tens of them in a rollout. Memory is highest in
the last chunk, when the results of all others are there: the first and the last one run, and what comes out of those
between is made without them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._pytree import tree_map_only

from alignkit.plan.follow import Follow

_PASS = "_get_per_token_logps_and_entropies"


@contextlib.contextmanager
def few_chunks(trainer: Any, follow: Follow) -> Iterator[None]:
    """While inside, passes without gradients run their first chunk and their last."""
    own: Callable[..., Any] = getattr(trainer, _PASS)
    found = [vars(cls)[_PASS] for cls in type(trainer).__mro__ if _PASS in vars(cls)]
    upstream = inspect.signature(found[-1])

    def passes(model: Any, *args: Any, **kwargs: Any) -> Any:
        given = upstream.bind(trainer, model, *args, **kwargs).arguments
        rows, size = given["input_ids"].shape[0], given.get("batch_size")
        if torch.is_grad_enabled() or not size:
            return own(model, *args, **kwargs)
        with patch.object(model, "forward", _Repeated(model.forward, -(-rows // size), follow)):
            return own(model, *args, **kwargs)

    with patch.object(trainer, _PASS, passes):
        yield


class _Repeated:
    """A model's forward that is called `count` times, and runs where it must."""

    def __init__(self, forward: Callable[..., Any], count: int, follow: Follow) -> None:
        self.forward, self.count, self.follow = forward, count, follow
        self.calls = 0
        self.first: Any = None
        self.flops = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if 1 < self.calls < self.count:  # all but the last are as large as the first
            self.follow.add_flops(self.flops)
            return tree_map_only(_Like, _Like.another, self.first)
        before = self.follow.all_flops
        output = self.forward(*args, **kwargs)
        if self.calls == 1:
            self.flops = self.follow.all_flops - before
            self.first = tree_map_only(torch.Tensor, _Like, output)
        return output


class _Like:
    """What another tensor like one needs to know of it, without keeping it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype

    def another(self) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype)
