"""What became of the rows: in, out and why, tokens, lengths. Goes to the manifest and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.data.packing import Composition
from alignkit.data.rows import RowStore
from alignkit.data.store import TokenStore
from alignkit.examples import Dropped, Example


@dataclass
class SourceTally:
    """One source as it is read. `first` is its first example's place in the store.

    `systems` counts the chats that begin with a system text; `drops` names the first example dropped for each reason.
    """

    path: str
    layout: str
    shape: str
    first: int = 0
    rows: int = 0
    examples: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    systems: int = 0
    drops: dict[str, str] = field(default_factory=dict)

    def saw(self, item: Example | Dropped) -> None:
        if item.row is not None:
            self.rows = max(self.rows, item.row.number)
        if isinstance(item, Example):
            self.systems += _has_system(item.data)

    def drop(self, item: Dropped) -> None:
        self.dropped[item.reason] += 1
        self.drops.setdefault(item.reason, item.id)

    def plain(self, store: TokenStore | RowStore) -> dict[str, Any]:
        """What is kept of it; its tokens are those of its examples before they are split, drawn or packed."""
        return {
            "path": self.path,
            "rows": self.rows,
            "examples": self.examples,
            "layout": self.layout,
            "shape": self.shape,
            "tokens": int(store.lengths[self.first : self.first + self.examples].sum()),
            "with_system": self.systems,
            "first_dropped": self.drops,
        }


def _has_system(data: Mapping[str, Any]) -> bool:
    """Whether an example is a chat that begins with a system text."""
    turns = data.get("messages") or data.get("prompt")
    return isinstance(turns, list) and bool(turns) and turns[0].get("role") == "system"


def count(
    store: TokenStore | RowStore,
    examples: np.ndarray,
    tallies: list[SourceTally],
    composition: Composition | None,
    max_length: int | None,
    held_out: int = 0,
) -> dict[str, Any]:
    """The counts of one split.

    Args:
        examples: which of the store's examples the split holds, (N,); with weights, one may stand in it several times.
        tallies: of the sources that are read for this split; none for one that is held out from another's.
        composition: the packed rows; None where nothing is packed.
        held_out: examples that were taken from these sources for the eval split.

    `not_drawn` in what is returned: usable examples that the weights leave out of an epoch.
    """
    dropped: Counter[str] = sum((tally.dropped for tally in tallies), Counter())
    lengths = store.lengths[examples]
    packed = None if composition is None else len(composition)
    full = None if composition is None or not packed else composition.tokens / (packed * (max_length or 1))
    distinct = np.unique(examples)
    kept = sum(tally.examples for tally in tallies)
    return {
        "rows": sum(tally.rows for tally in tallies) if tallies else len(examples),
        "examples": len(examples),
        "dropped": dict(dropped.most_common()),
        "held_out": held_out,
        "not_drawn": kept - held_out - len(distinct) if tallies else 0,
        "duplicates": len(distinct) - len(np.unique(store.hashes[distinct])),
        "tokens": int(store.tokens[examples].sum()),
        "supervised_tokens": int(store.supervised[examples].sum()),
        "truncated": int(store.truncated[examples].sum()),
        "longest": int(lengths.max()) if len(lengths) else 0,
        "length_histogram": histogram(lengths),
        "packed_rows": packed,
        "fill": full,
        "sources": [tally.plain(store) for tally in tallies],
    }


def histogram(lengths: np.ndarray) -> list[list[int]]:
    """[[upper, n], …]: n lengths above the previous bound and up to `upper`, a power of two."""
    if not len(lengths):
        return []
    exponents: np.ndarray = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
    found = np.bincount(exponents)
    first = int(np.flatnonzero(found)[0])
    return [[2**exponent, int(found[exponent])] for exponent in range(first, len(found))]
