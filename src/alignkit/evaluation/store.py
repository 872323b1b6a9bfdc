"""Completions on disk while they are made: a killed evaluation goes on where it was, and redoes nothing.

One file for each task, model, data and settings, named by a fingerprint of all four. Lines are appended as batches end;
a line that a kill cut short is dropped. When every prompt is done the file loses its `.partial`, and a later evaluation
of the same thing reads it and generates nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alignkit.evaluation.generate import Completion

FOLDER = "completions"


class Store:
    """Completions by the prompt's place: `done` holds those that an earlier start finished."""

    def __init__(self, out_dir: Path, name: str, fingerprint: str) -> None:
        folder = out_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.final = folder / f"{_file_name(name)}-{fingerprint[:16]}.jsonl"
        self.partial = self.final.with_suffix(".jsonl.partial")
        self.done: dict[int, list[Completion]] = {}
        path = self.final if self.final.exists() else self.partial
        if path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            record = json.loads(line)
            self.done[record["place"]] = [Completion(**completion) for completion in record["completions"]]

    def add(self, places: Sequence[int], completions: Sequence[list[Completion]]) -> None:
        """Append a finished batch and hand it to the disk."""
        lines = []
        for place, found in zip(places, completions, strict=True):
            self.done[place] = list(found)
            lines.append(
                json.dumps({"place": place, "completions": [asdict(one) for one in found]}, ensure_ascii=False)
            )
        with self.partial.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """All prompts are done: the file takes its final name."""
        if self.partial.exists():
            self.partial.replace(self.final)


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
