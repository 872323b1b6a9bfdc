"""`alignkit doctor RUN`: how a run ended, what is odd about it, and what to try; from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignkit.doctor.endings import checkpoints, ending, left_behind
from alignkit.doctor.findings import Case, Finding
from alignkit.doctor.scored import room, scored
from alignkit.doctor.training import training
from alignkit.errors import Problem, UserError
from alignkit.report.data import gather
from alignkit.runs import Run
from alignkit.secrets import safe

__all__ = ["Diagnosis", "Finding", "command", "examine"]

LOG_END = 4 * 2**20
"""Bytes of log.txt that are read, from its end."""
CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (ending, left_behind, training, scored, room)
ORDER = ("bad", "warn", "note")


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a run's folder, the worst first after how it ended, and what was looked at."""

    run: Path
    state: str
    findings: list[Finding]
    looked_at: list[str]
    resume: str

    @property
    def odd(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.tone != "note"]

    def plain(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "state": self.state,
            "findings": [asdict(finding) for finding in self.findings],
            "looked_at": self.looked_at,
            "resume": self.resume or None,
        }


def examine(run_dir: Path) -> Diagnosis:
    """Read a run's folder and say what is odd in it. Files may be missing or broken; that is then among the findings.

    Raises:
        UserError: there is no such folder.
    """
    if not run_dir.is_dir():
        raise UserError(Problem("there is no such run folder", file=run_dir))
    data = gather(run_dir, samples=False)
    case = Case(data, _end_of(run_dir / "log.txt"), _state(Run(run_dir), data.state))
    first, *others = CHECKS
    found = list(first(case))
    found += sorted((one for check in others for one in check(case)), key=lambda one: ORDER.index(one.tone))
    found += [Finding("unreadable", "warn", f"Reading the folder: {note}.") for note in data.notes]
    resume = data.resume if case.state in ("interrupted", "died", "failed") else ""
    return Diagnosis(run_dir, case.state, found, _looked_at(case), resume)


def _state(run: Run, told: str) -> str:
    try:
        return run.state
    except (OSError, ValueError, AttributeError):
        return told


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_END))
            return safe(file.read().decode("utf-8", errors="replace"))
    except OSError:
        return ""


def _looked_at(case: Case) -> list[str]:
    data = case.data
    lines = max((len(series.steps) for series in data.curves.values()), default=0)
    starts = case.log.count("INFO alignkit: loading the libraries")
    found = checkpoints(case)
    return [
        f"state.json ({case.state})",
        f"log.txt ({starts} start{'' if starts == 1 else 's'})" if case.log else "no log.txt",
        f"metrics.jsonl ({len(data.curves)} quantities, {lines} logged steps)" if lines else "no metrics",
        "manifest.json" if data.manifest else "no manifest",
        f"checkpoints ({', '.join(map(str, found))})" if found else "no checkpoint",
        f"{len(data.scores)} scores" if data.scores else "no scores",
    ]


def command(run_dir: Path, *, as_json: bool) -> None:
    """Print the diagnosis."""
    found = examine(run_dir)
    print(json.dumps(found.plain(), indent=2) if as_json else as_text(found))


def as_text(found: Diagnosis) -> str:
    """For people: what happened, what is odd, what to try."""
    lines = [f"{found.run}: {found.state}"]
    marks = {"bad": "✗", "warn": "!", "note": "·"}
    for finding in found.findings:
        lines.append(f"{marks[finding.tone]} {finding.what}")
        if finding.advice:
            lines.append(
                f"    try: {finding.advice}" if not finding.advice.startswith("go on") else f"    {finding.advice}"
            )
    if not found.odd:
        lines.append("nothing odd found")
    lines.append(f"looked at: {'; '.join(found.looked_at)}")
    return "\n".join(lines)
