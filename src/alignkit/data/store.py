"""Rendered examples on disk while a data set is put together, and the Arrow files that come of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from alignkit.data.packing import Composition
from alignkit.data.render import Rendered

BATCH = 1000  # rows an Arrow record batch


class TokenStore:
    """All tokens and labels of a data set in two flat files; in memory only lengths, ids and hashes.

    Add everything, then `close()`, then read.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.paths = (folder / f"{name}.ids", folder / f"{name}.labels")
        self._files = [path.open("wb") for path in self.paths]
        self.example_ids: list[str] = []
        self._lengths: list[int] = []
        self._supervised: list[int] = []
        self._truncated: list[bool] = []
        self._hashes: list[int] = []

    def add(self, rendered: Rendered) -> None:
        self._files[0].write(rendered.input_ids.tobytes())
        self._files[1].write(rendered.labels.tobytes())
        self.example_ids.append(rendered.id)
        self._lengths.append(len(rendered.input_ids))
        self._supervised.append(int((rendered.labels != -100).sum()))
        self._truncated.append(rendered.truncated)
        content = rendered.input_ids.tobytes() + rendered.labels.tobytes()
        self._hashes.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))

    def close(self) -> None:
        for file in self._files:
            file.close()
        self.lengths = self.tokens = np.array(self._lengths, dtype=np.int64)
        self.supervised = np.array(self._supervised, dtype=np.int64)
        self.truncated = np.array(self._truncated, dtype=bool)
        self.hashes = self.groups = np.array(self._hashes, dtype=np.uint64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.example_ids)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens and all labels, (T,) int32 each, mapped from disk."""
        if not len(self):
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        return np.memmap(self.paths[0], dtype=np.int32, mode="r"), np.memmap(self.paths[1], dtype=np.int32, mode="r")

    def write(self, examples: np.ndarray, composition: Composition, path: Path, packed: bool) -> None:
        """Write the rows that `composition` makes of `examples`, (N,) indices, as an Arrow file."""
        write_arrow(self, examples, composition, path, packed)

    def remove(self) -> None:
        for path in self.paths:
            path.unlink()


def write_arrow(store: TokenStore, examples: np.ndarray, composition: Composition, path: Path, packed: bool) -> None:
    """Write rows as an Arrow stream file that `datasets.Dataset.from_file` maps.

    Args:
        examples: which of the store's examples `composition` speaks of, (N,).
        packed: `example_id` is a list; with `composition.boundaries` there is `seq_lengths` too.
    """
    ids, labels = store.read()
    schema = _schema(packed, composition.boundaries)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for first in range(0, len(composition), BATCH):
            bounds = composition.bounds[first : first + BATCH + 1]
            pieces = composition.pieces[bounds[0] : bounds[-1]].copy()
            pieces[:, 0] = examples[pieces[:, 0]]
            columns = list(_columns(store, ids, labels, pieces, bounds - bounds[0], packed, composition.boundaries))
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _schema(packed: bool, boundaries: bool) -> pa.Schema:
    tokens = pa.list_(pa.int32())
    fields = [("input_ids", tokens), ("labels", tokens), ("length", pa.int32())]
    fields.append(("example_id", pa.list_(pa.string()) if packed else pa.string()))
    return pa.schema([*fields, ("seq_lengths", tokens)] if boundaries else fields)


def _columns(
    store: TokenStore,
    ids: np.ndarray,
    labels: np.ndarray,
    pieces: np.ndarray,
    bounds: np.ndarray,
    packed: bool,
    boundaries: bool,
) -> Iterator[pa.Array]:
    starts = store.offsets[pieces[:, 0]] + pieces[:, 1]
    lengths = pieces[:, 2] - pieces[:, 1]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    slices = [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    row_labels = np.concatenate([labels[part] for part in slices])
    if boundaries:  # what follows a boundary is not predicted from the document before it
        row_labels[ends[:-1]] = -100
    row_ends = pa.array(ends[bounds], pa.int32())
    yield pa.ListArray.from_arrays(row_ends, pa.array(np.concatenate([ids[part] for part in slices]), pa.int32()))
    yield pa.ListArray.from_arrays(row_ends, pa.array(row_labels, pa.int32()))
    yield pa.array(np.diff(ends[bounds]), pa.int32())
    names = pa.array([store.example_ids[example] for example in pieces[:, 0].tolist()], pa.string())
    yield pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), names) if packed else names
    if boundaries:
        yield pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(lengths, pa.int32()))
