"""Small models on a CPU: each core takes batches of its own, instead of all cores sharing every small operation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL = 50_000_000
"""Parameters up to which an operation is too small to be worth splitting."""
MOST_WORKERS = 8


def workers_for(model: Any) -> int:
    """How many batches to compute at a time."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    devices = {parameter.device.type for parameter in model.parameters()}
    return min(torch.get_num_threads(), MOST_WORKERS) if devices == {"cpu"} and parameters <= SMALL else 1


@contextlib.contextmanager
def each_core_its_own(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Iterable[Result]]:
    """The results of `work` on each item, in order; by `workers` threads with one core each."""
    if workers == 1 or len(items) == 1:
        yield map(work, items)
        return
    threads = torch.get_num_threads()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def within(item: Item) -> Result:  # autocast is a thread's own
        with torch.autocast("cpu", enabled=autocast[0], dtype=autocast[1]):
            return work(item)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map(within, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
