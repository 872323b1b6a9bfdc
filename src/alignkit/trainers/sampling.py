"""The order of examples: grouped by length, and the same again after a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Batches sorted together. More means less padding and less randomness; upstream's LengthGroupedSampler takes 50 too.
BATCHES_PER_GROUP = 50


class SeededOrder(Sampler[int]):
    """A random order of N examples, a function of (seed, epoch) alone: Accelerate's SeedableRandomSampler's."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(self.number, generator=generator).tolist()


class LengthGroupedOrder(Sampler[int]):
    """Batches of about equal lengths, in random order, a function of (seed, epoch) alone.

    Upstream's LengthGroupedSampler draws from the global generator, so a run resumed past its first epoch sees another
    order; and it yields each group from long to short, so that lengths drift through it. Here the batches of a group
    are shuffled.

    Args:
        lengths: tokens of each example, (N,).
        batch_size: examples that are used together (micro-batch × accumulation × processes).
        micro_batch: examples padded together; a batch is cut into these from long to short.
        seed: with the epoch set by `set_epoch`, decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        for group in order.split(self.batch_size * BATCHES_PER_GROUP):
            by_length = group[self.lengths[group].argsort(descending=True, stable=True)]
            batches = by_length.split(self.batch_size)
            # Only whole batches change places: a short one in the middle would shift all that follow it.
            whole = [batch for batch in batches if len(batch) == self.batch_size]
            for index in torch.randperm(len(whole), generator=generator).tolist():
                yield from whole[index].tolist()
            if len(batches) > len(whole):
                yield from batches[-1].tolist()
