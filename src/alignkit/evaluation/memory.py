"""Batches that are halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from alignkit.errors import RunFailed

Item = TypeVar("Item")
Result = TypeVar("Result")


def halved_when_full(
    work: Callable[[Sequence[Item]], Result], batch: Sequence[Item]
) -> Iterator[tuple[Sequence[Item], Result]]:
    """`work` on the batch, or on halves of it where memory runs out: (part, result) in order.

    Raises:
        RunFailed: one item alone does not fit.
    """
    pending = [batch]
    while pending:
        part = pending.pop()
        try:
            result = work(part)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            result = None
        if result is not None:
            yield part, result
            continue
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        if len(part) == 1:
            raise RunFailed("out of memory while evaluating one item alone; try a smaller max_length or max_new_tokens")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (len(part) + 1) // 2
        pending += [part[middle:], part[:middle]]


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
