"""Rows of any columns on disk while a data set is put together: what `store.TokenStore` is for packed tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alignkit.data.packing import Composition

BATCH = 1000  # rows an Arrow record batch


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """One example as its trainer takes it: `columns` (plain data or arrays), and what is counted of it.

    `length`: what the row takes in a batch, by which rows are batched. `supervised`: the tokens that are learned from.
    `tokens`: all that it holds, where that is not its length (the two answers of a pair). `group`: rows of one group
    (the answers to one prompt) are never split between training and evaluation; by default, equal rows are one.
    """

    id: str
    columns: dict[str, Any]
    length: int
    supervised: int
    truncated: bool = False
    tokens: int | None = None
    group: str | None = None

    def row(self) -> dict[str, Any]:
        """Its columns as the data set has them."""
        return {**self.columns, "length": self.length, "example_id": self.id}


class RowStore:
    """All rows of a data set in one Arrow file; in memory only lengths, ids and hashes.

    Add everything, then `close()`, then `write` what is wanted.

    Args:
        schema: of the rows' own columns; `length` and `example_id` are added to it.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.path = folder / f"{name}.rows"
        self.schema = schema.append(pa.field("length", pa.int32())).append(pa.field("example_id", pa.string()))
        self._sink = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        self._waiting: list[dict[str, Any]] = []
        self.example_ids: list[str] = []
        self._lengths: list[int] = []
        self._tokens: list[int] = []
        self._supervised: list[int] = []
        self._truncated: list[bool] = []
        self._hashes: list[int] = []
        self._groups: list[int] = []

    def add(self, row: RenderedRow) -> None:
        self._waiting.append(row.row())
        self.example_ids.append(row.id)
        self._lengths.append(row.length)
        self._tokens.append(row.length if row.tokens is None else row.tokens)
        self._supervised.append(row.supervised)
        self._truncated.append(row.truncated)
        self._hashes.append(_content_hash(row.columns))
        self._groups.append(self._hashes[-1] if row.group is None else _hash(row.group.encode()))
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=self.schema))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()
        self.lengths = np.array(self._lengths, dtype=np.int64)
        self.tokens = np.array(self._tokens, dtype=np.int64)
        self.supervised = np.array(self._supervised, dtype=np.int64)
        self.truncated = np.array(self._truncated, dtype=bool)
        self.hashes = np.array(self._hashes, dtype=np.uint64)
        self.groups = np.array(self._groups, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.example_ids)

    def table(self) -> pa.Table:
        """All rows, mapped from disk."""
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()

    def write(self, examples: np.ndarray, _composition: Composition, path: Path, packed: bool) -> None:
        """Write the rows at `examples`, (N,) indices, as an Arrow file that `datasets.Dataset.from_file` maps."""
        assert not packed, "only rows of tokens are packed"
        rows = self.table()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, self.schema) as writer:
            for first in range(0, len(examples), BATCH):
                writer.write_table(rows.take(pa.array(examples[first : first + BATCH])))

    def remove(self) -> None:
        self.path.unlink()


def _content_hash(columns: dict[str, Any]) -> int:
    """Of what a row holds, 64 bits: equal rows are never split between training and evaluation."""
    parts = []
    for name in sorted(columns):
        value = columns[name]
        content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        parts.append(name.encode() + b"\0" + content + b"\0")
    return _hash(b"".join(parts))


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
