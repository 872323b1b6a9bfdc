"""Which examples share a row: nothing lost, nothing too long, as tight as TRL's, and fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
from datasets import Dataset
from trl import pack_dataset

from alignkit.data.packing import Composition, pack

LENGTHS = np.random.default_rng(0).integers(1, 40, 500)


def rows_of(packed: Composition, tokens: list[list[int]]) -> list[list[int]]:
    rows = []
    for low, high in zip(packed.bounds, packed.bounds[1:], strict=False):
        rows.append([token for e, a, b in packed.pieces[low:high].tolist() for token in tokens[e][a:b]])
    return rows


def numbered(lengths: np.ndarray) -> list[list[int]]:
    ends = np.cumsum(lengths)
    return [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_every_token_once_and_as_tight_as_trl(strategy: str) -> None:
    length = 40 if strategy == "bfd" else 13
    tokens = numbered(LENGTHS)
    rows = rows_of(pack(LENGTHS, length, strategy), tokens)
    assert max(map(len, rows)) <= length
    assert sorted(token for row in rows for token in row) == list(range(LENGTHS.sum()))
    theirs = pack_dataset(Dataset.from_dict({"input_ids": tokens}), length, strategy, {"batch_size": None})
    assert len(rows) == len(theirs)
    if strategy == "wrapped":
        assert rows == theirs["input_ids"][:]


def test_whole_examples_stay_whole_and_in_any_order_of_the_seed() -> None:
    packed = pack(LENGTHS, 64, "bfd", seed=1)
    assert sorted(packed.pieces[:, 0].tolist()) == list(range(len(LENGTHS)))
    assert (packed.pieces[:, 1] == 0).all() and (packed.pieces[:, 2] == LENGTHS[packed.pieces[:, 0]]).all()
    assert packed.pieces.tolist() == pack(LENGTHS, 64, "bfd", seed=1).pieces.tolist()
    assert packed.pieces.tolist() != pack(LENGTHS, 64, "bfd", seed=2).pieces.tolist()
    sizes = [
        int(LENGTHS[packed.pieces[low:high, 0]].max())
        for low, high in zip(packed.bounds, packed.bounds[1:], strict=False)
    ]
    assert sizes != sorted(sizes, reverse=True)  # rows do not come sorted by length


def test_nothing_to_pack() -> None:
    for strategy in ("bfd", "bfd_split", "wrapped"):
        assert len(pack(np.zeros(0, dtype=np.int64), 8, strategy)) == 0


def test_a_hundred_thousand_rows_in_a_second_or_two() -> None:
    lengths = np.random.default_rng(0).integers(1, 2048, 100_000)
    began = time.perf_counter()
    packed = pack(lengths, 2048)
    assert time.perf_counter() - began < 5
    assert packed.tokens / (len(packed) * 2048) > 0.99
