"""What tells a model's weights from those of another of its shape, such as a fine-tune of it: read from its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from alignkit.model_folders.names import cached_snapshot

SAMPLE = 256  # bytes read at the start, in the middle and at the end of each tensor
BLOCK = 2**16  # of a pickled file, likewise


def weights_fingerprint(model: str, revision: str | None = None) -> str | None:
    """SHA-256 (hex) of the names, types, shapes and sampled values of a model's weights; None where no file is at hand.

    `model` is a folder, or a Hub id that the local cache may hold. Safetensors give the same however they are sharded.
    A few milliseconds for a hundred tensors, whatever their size.
    """
    folder = Path(model) if Path(model).is_dir() else cached_snapshot(model, revision)
    if folder is None:
        return None
    tensors = {name: digest for file in sorted(folder.glob("*.safetensors")) for name, digest in _tensors(file)}
    if not tensors:
        tensors = {file.name: _sampled(file, 0, file.stat().st_size, BLOCK) for file in sorted(folder.glob("*.bin"))}
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest() if tensors else None


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """(name, digest) of each tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            yield name, f"{entry['dtype']}{entry['shape']}{_sampled(path, first, last, SAMPLE)}"


def _sampled(path: Path, first: int, last: int, size: int) -> str:
    digest = hashlib.sha256(str(last - first).encode())
    with path.open("rb") as file:
        for place in (first, (first + last) // 2, max(first, last - size)):
            file.seek(place)
            digest.update(file.read(min(size, last - place)))
    return digest.hexdigest()
