"""Which examples share a row. Works on lengths alone; `store.write_arrow` then cuts the rows out of the tokens."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

STRATEGIES = ("bfd", "bfd_split", "wrapped")


@dataclass(frozen=True)
class Composition:
    """The rows of a data set, as pieces of examples.

    Attributes:
        pieces: (P, 3) int64: example, first token, last token + 1; in the order in which rows hold them.
        bounds: (R + 1,) int64: row r holds pieces[bounds[r]:bounds[r + 1]].
        boundaries: whether pieces in a row are kept apart (`seq_lengths`); False for `wrapped`.
    """

    pieces: np.ndarray
    bounds: np.ndarray
    boundaries: bool = True

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def tokens(self) -> int:
        return int((self.pieces[:, 2] - self.pieces[:, 1]).sum())


def pack(lengths: np.ndarray, max_length: int, strategy: str = "bfd", seed: int = 0) -> Composition:
    """Rows of at most `max_length` tokens, in TRL's words:

    - `bfd`: best-fit decreasing (Ding et al. 2024, arXiv:2404.10830); examples must fit (truncate them before);
    - `bfd_split`: examples longer than a row are cut into pieces first, nothing is lost;
    - `wrapped`: one stream of tokens, cut every `max_length`; examples in a row are not kept apart.

    Args:
        lengths: tokens of each example, (N,).
        seed: of the order of equal lengths and of the rows, so that neither sorts the data by length nor puts copies of
            an example side by side.
    """
    rng = np.random.default_rng(seed)
    if strategy == "wrapped":
        return _wrap(lengths, max_length)
    pieces = _split(lengths, max_length) if strategy == "bfd_split" else _whole(lengths)
    rows = _best_fit_decreasing(pieces[:, 2] - pieces[:, 1], max_length, rng)
    order = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) if rows else np.zeros(0, np.int64)
    return Composition(pieces[order], _bounds([len(row) for row in rows]))


def unpacked(lengths: np.ndarray) -> Composition:
    """One example a row."""
    return Composition(_whole(lengths), np.arange(len(lengths) + 1, dtype=np.int64), boundaries=False)


def _best_fit_decreasing(lengths: np.ndarray, max_length: int, rng: np.random.Generator) -> list[list[int]]:
    """Rows as lists of pieces: each piece, the longest first, goes where it leaves the least space."""
    assert not len(lengths) or int(lengths.max()) <= max_length
    shuffled = rng.permutation(len(lengths))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    rows: list[list[int]] = []
    by_space: dict[int, list[int]] = defaultdict(list)
    spaces = (
        0  # bit s is set while a row with s tokens of space is open: the best fit is the lowest bit from `length` on
    )
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
            rows[row].append(piece)
        else:
            space, row = max_length, len(rows)
            rows.append([piece])
        if left := space - length:
            by_space[left].append(row)
            spaces |= 1 << left
    return [rows[row] for row in rng.permutation(len(rows)).tolist()]


def _whole(lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    return np.stack([np.arange(len(lengths)), np.zeros_like(lengths), lengths], axis=1)


def _split(lengths: np.ndarray, max_length: int) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    counts: np.ndarray = -(-lengths // max_length)
    examples: np.ndarray = np.repeat(np.arange(len(lengths)), counts)
    starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * max_length
    return np.stack([examples, starts, np.minimum(starts + max_length, lengths[examples])], axis=1)


def _wrap(lengths: np.ndarray, max_length: int) -> Composition:
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.unique(np.concatenate([ends - lengths, np.arange(0, total, max_length)]))
    stops: np.ndarray = np.append(cuts[1:], total)
    examples = np.searchsorted(ends, cuts, side="right")
    starts = ends[examples] - lengths[examples]
    pieces = np.stack([examples, cuts - starts, stops - starts], axis=1)
    row = cuts // max_length
    return Composition(pieces, np.append(np.flatnonzero(np.diff(row, prepend=-1)), len(row)), boundaries=False)


def _bounds(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
