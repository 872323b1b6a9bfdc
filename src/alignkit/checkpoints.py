"""A checkpoint's folder: sealed with the checksum of each file once it is whole, and verified before it is used.

The seal is a file in the format of `sha256sum`, so that `sha256sum -c checksums.sha256` verifies a checkpoint too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "checkpoint-"
PROGRESS = "alignkit_progress_{rank}.json"
SEAL = "checksums.sha256"
ASIDE = ".saving"
"""Where a checkpoint is written before it is renamed into place."""


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that cannot be trusted, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.why}"


def seal(folder: Path) -> None:
    """Write the checksums of all files of `folder` into it, and see that everything is on the disk."""
    files = list(_files(folder))
    with ThreadPoolExecutor(max_workers=_threads(len(files))) as pool:
        sums = list(pool.map(_digest_on_disk, files))
    lines = [f"{digest}  {file.relative_to(folder)}\n" for file, digest in zip(files, sums, strict=True)]
    (folder / SEAL).write_text("".join(lines), encoding="utf-8")
    sync(folder / SEAL)
    for below in sorted({file.parent for file in files} | {folder}):
        sync(below)


def fault(folder: Path) -> str | None:
    """Why the checkpoint `folder` must not be used, or None where every file is what it was when it was sealed."""
    try:
        lines = (folder / SEAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return f"it has no {SEAL}: it was not finished, or not written by alignkit"
    except (OSError, ValueError) as error:
        return f"its {SEAL} cannot be read ({error})"
    expected = {name: digest for digest, found, name in (line.partition("  ") for line in lines) if found}
    if not expected or len(expected) != len(lines):
        return f"its {SEAL} is damaged"
    if missing := [name for name in expected if not (folder / name).is_file()]:
        return f"{missing[0]} is missing"
    with ThreadPoolExecutor(max_workers=_threads(len(expected))) as pool:
        found = list(pool.map(_digest, (folder / name for name in expected)))
    for (name, digest), got in zip(expected.items(), found, strict=True):
        if got != digest:
            return f"{name} is damaged: its checksum is not the one it was saved with"
    return None


def by_step(folder: Path) -> list[tuple[int, Path]]:
    """(step, checkpoint) of what lies in a run's checkpoints folder, the newest first. Nothing is verified."""
    found = [
        (int(entry.name.removeprefix(PREFIX)), entry)
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.name.startswith(PREFIX) and entry.name.removeprefix(PREFIX).isdigit() and entry.is_dir()
    ]
    return sorted(found, reverse=True)


def newest_good(folder: Path) -> tuple[Path | None, list[Skipped]]:
    """The newest checkpoint that verifies, or None, and the newer ones that do not."""
    skipped: list[Skipped] = []
    for _, path in by_step(folder):
        why = fault(path)
        if why is None:
            return path, skipped
        skipped.append(Skipped(path, why))
    return None, skipped


def read_progress(checkpoint: Path) -> list[dict[str, Any]]:
    """What each process wrote into a checkpoint of its own counts, by rank; see `trainers.checkpoints`."""
    number = len(list(checkpoint.glob(PROGRESS.format(rank="*"))))
    files = (checkpoint / PROGRESS.format(rank=rank) for rank in range(number))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def step_of(checkpoint: Path | str) -> int:
    return int(Path(checkpoint).name.removeprefix(PREFIX))


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(file.stat().st_size for file in _files(folder))


def sync(path: Path) -> None:
    """Return when what was written to `path`, a file or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[Path]:
    return (entry for entry in sorted(folder.rglob("*")) if entry.is_file() and entry != folder / SEAL)


def _threads(files: int) -> int:
    return max(1, min(files, os.cpu_count() or 1, 8))  # hashing lets other threads run


def _digest_on_disk(file: Path) -> str:
    sync(file)
    return _digest(file)


def _digest(file: Path) -> str:
    try:
        with file.open("rb", buffering=0) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"
