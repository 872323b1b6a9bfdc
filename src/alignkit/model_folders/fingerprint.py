"""What tells a model's weights from those of another of its shape, such as a fine-tune of it: read from its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from alignkit.model_folders.folders import TOKENIZER_FILES, find_template, read_config
from alignkit.model_folders.names import cached_snapshot

SAMPLE = 256  # bytes read at the start, in the middle and at the end of each tensor
BLOCK = 2**16  # of a pickled file, likewise
WHOLE = 2**24  # read at once where every byte is


def weights_fingerprint(model: str, revision: str | None = None, *, exact: bool = False) -> str | None:
    """SHA-256 (hex) of the names, types, shapes and sampled values of a model's weights; None where no file is at hand.

    `model` is a folder, or a Hub id that the local cache may hold. Safetensors give the same however they are sharded.
    A few milliseconds for a hundred tensors, whatever their size; `exact` reads every value, as fast as the disk does.
    """
    folder = Path(model) if Path(model).is_dir() else cached_snapshot(model, revision)
    if folder is None:
        return None
    tensors = {name: digest for file in sorted(folder.glob("*.safetensors")) for name, digest in _tensors(file, exact)}
    if not tensors:
        tensors = {
            file.name: _sampled(file, 0, file.stat().st_size, None if exact else BLOCK)
            for file in sorted(folder.glob("*.bin"))
        }
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode()).hexdigest() if tensors else None


def tokenizer_files_fingerprint(folder: Path) -> tuple[str | None, str | None]:
    """SHA-256 (hex) of what a tokenizer's files hold, and of its chat template; each None where there is none."""
    held: dict[str, str] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (*TOKENIZER_FILES, "merges.txt", "added_tokens.json", "special_tokens_map.json")
        if (folder / name).is_file()
    }
    template = find_template(folder)
    of_template = hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
    settings = read_config(folder, "tokenizer_config.json")[0]
    if not held and not settings:
        return None, of_template
    held["settings"] = json.dumps({key: value for key, value in settings.items() if key != "chat_template"})
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest(), of_template


def _tensors(path: Path, exact: bool) -> Iterator[tuple[str, str]]:
    """(name, digest) of each tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            yield name, f"{entry['dtype']}{entry['shape']}{_sampled(path, first, last, None if exact else SAMPLE)}"


def _sampled(path: Path, first: int, last: int, size: int | None) -> str:
    """Of `size` bytes at the start, in the middle and at the end; None reads all of them."""
    digest = hashlib.sha256(str(last - first).encode())
    with path.open("rb") as file:
        if size is None:
            file.seek(first)
            while first < last and (block := file.read(min(WHOLE, last - first))):
                digest.update(block)
                first += len(block)
            return digest.hexdigest()
        for place in (first, (first + last) // 2, max(first, last - size)):
            file.seek(place)
            digest.update(file.read(min(size, last - place)))
    return digest.hexdigest()
