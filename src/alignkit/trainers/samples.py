"""Completions through training, for people to read: the run's samples.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WATCHED = 8
"""Held-out prompts whose completions are written at each evaluation."""


class SamplesFile:
    """Appends lines `{step, kind, id, prompt, completion, reward, rewards}`; `kind` is best, worst or held_out.

    Args:
        path: None writes nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def extremes(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """The best and the worst rewarded completion of a generation."""
        scored = [sample for sample in samples if sample["reward"] is not None]
        if not scored:
            return
        best, worst = (choose(scored, key=lambda sample: sample["reward"]) for choose in (max, min))
        self._write([{"step": step, "kind": "best", **best}, {"step": step, "kind": "worst", **worst}])

    def held_out(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        self._write([{"step": step, "kind": "held_out", **sample} for sample in samples[:WATCHED]])

    def drop_after(self, step: int) -> None:
        """Forget what a run wrote after the checkpoint from which it goes on."""
        if self.path is None or not self.path.exists():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
        aside = self.path.with_suffix(".partial")
        aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        aside.replace(self.path)

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line, of a run that was killed
