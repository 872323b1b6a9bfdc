"""What a file holds, by its hash; and where alignkit keeps what it need not work out twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RACY_NS = 2 * 10**9  # a file this young may change again within its modification time's resolution


def root() -> Path:
    """$ALIGNKIT_CACHE, or ~/.cache/alignkit."""
    chosen = os.environ.get("ALIGNKIT_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignkit"


def file_hashes(files: Iterable[Path]) -> list[list[str]]:
    """[name, SHA-256] of each file. A hash is remembered with the file's size and time, and reused while they hold."""
    store = root() / "files.json"
    known: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError, ValueError):
        read = json.loads(store.read_text())
        known = read if isinstance(read, dict) else {}
    hashes, changed = [], False
    for file in files:
        status = file.stat()
        # Anyone can set a modification time back; the time of the inode's change tells that someone did.
        stamp, name = [status.st_size, status.st_mtime_ns, status.st_ctime_ns], str(file.resolve())
        entry = known.get(name)
        if not isinstance(entry, list) or len(entry) != 4 or entry[:3] != stamp:
            with file.open("rb") as handle:
                entry = [*stamp, hashlib.file_digest(handle, "sha256").hexdigest()]
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS:
                known[name], changed = entry, True
        hashes.append([file.name, str(entry[3])])
    if changed:
        with contextlib.suppress(OSError):
            store.parent.mkdir(parents=True, exist_ok=True)
            _write_aside(store, json.dumps(known))
    return hashes


def _write_aside(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
