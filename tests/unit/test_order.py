"""The order of examples is a function of seed and epoch, and groups like lengths."""

from __future__ import annotations

import itertools
import random

from alignkit.trainers.sampling import LengthGroupedOrder


def test_each_example_once_and_the_same_again_for_the_same_epoch() -> None:
    lengths = [random.Random(0).randint(1, 500) for _ in range(1003)]
    order = LengthGroupedOrder(lengths, batch_size=16, seed=7)
    first = list(order)
    assert sorted(first) == list(range(1003))
    assert list(order) == first
    order.set_epoch(1)
    second = list(order)
    assert second != first
    order.set_epoch(0)
    assert list(order) == first


def test_batches_hold_like_lengths_in_no_order_of_length() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(1, 500) for _ in range(16 * 100)]
    order = list(LengthGroupedOrder(lengths, batch_size=16, seed=0))
    batches = [[lengths[index] for index in order[at : at + 16]] for at in range(0, len(order), 16)]
    padded = sum(16 * max(batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    longest = [max(batch) for batch in batches[:50]]
    falling = sum(a > b for a, b in itertools.pairwise(longest))
    assert 10 < falling < 40
