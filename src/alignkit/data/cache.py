"""Prepared data sets on disk, by a fingerprint of everything that shapes them. A folder is complete or absent."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alignkit.data
import alignkit.examples
from alignkit.examples.hashes import file_hashes as file_hashes  # the cache's words too
from alignkit.examples.hashes import root as root

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

META = "meta.json"
DAYS_UNUSED = 60
"""Prepared data that nothing has read for so long is removed when something new is prepared."""


# ---------------------------------------------------------------------- fingerprints
def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that decides how text becomes tokens, the chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    inside = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return fingerprint({"class": type(tokenizer).__name__, "inside": inside, "special": special,
                        "template": tokenizer.chat_template})  # fmt: skip


@functools.cache
def code_fingerprint() -> str:
    """Of the code that turns rows into tokens: a new version never reads what an old one wrote."""
    packages = [Path(package.__file__ or "").parent for package in (alignkit.data, alignkit.examples)]
    files = sorted(file for package in packages for file in package.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


# ---------------------------------------------------------------------- folders
@contextlib.contextmanager
def new_folder() -> Iterator[tuple[Path, bool]]:
    """A folder to build in, and whether it is in the cache; if that can't be written, a temporary one until exit."""
    prepared = root() / "prepared"
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        _sweep(prepared)
        folder, cached = Path(tempfile.mkdtemp(prefix=".", dir=prepared)), True
    except OSError:
        folder, cached = Path(tempfile.mkdtemp(prefix="alignkit-")), False
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        yield folder, cached
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sweep(prepared: Path) -> None:
    """Remove what runs that were killed a day ago or more left half built, and what nothing has read for long."""
    for folder in prepared.iterdir():
        with contextlib.suppress(OSError):
            half_built = folder.name.startswith(".")
            age = time.time() - (folder if half_built else folder / META).stat().st_mtime
            if age > (1 if half_built else DAYS_UNUSED) * 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Complete a folder: what was counted and decided, and the sum of every file."""
    sums = {path.name: _sum(path) for path in folder.iterdir()}
    (folder / META).write_text(json.dumps({**meta, "sums": sums}))


def _sum(path: Path) -> list[int]:
    """Size and CRC-32 of a file: a disk that rots, or a copy cut short, must not become training data."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]


def publish(folder: Path, key: str) -> Path:
    """Move a complete folder to its place; if another process was faster, take that one's."""
    place = root() / "prepared" / key
    try:
        folder.rename(place)
    except OSError:
        if find(key) is None:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
    return place


def find(key: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a fingerprint and its meta data; one that is damaged is removed."""
    folder = root() / "prepared" / key
    try:
        if not folder.is_dir():
            return None
        meta = json.loads((folder / META).read_text())
        whole = {"counts", "template"} <= meta.keys() and meta["sums"]
        if whole and all(_sum(folder / name) == known for name, known in meta["sums"].items()):
            with contextlib.suppress(OSError):
                os.utime(folder / META)  # used today: see _sweep
            return folder, meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None


def as_plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)
