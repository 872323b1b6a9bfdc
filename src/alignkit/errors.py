"""The ways in which a command can end badly, and the exit code of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Problem:
    """One thing the user can mend: where it stands, what is wrong, and the likely fix."""

    message: str
    file: str | Path | None = None
    line: int | None = None
    field: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """`FILE:LINE: FIELD: what; hint`, each part only where it is known, always on one line."""
        place = "" if self.file is None else str(self.file) + ("" if self.line is None else f":{self.line}")
        parts = [part for part in (place, self.field) if part]
        text = ": ".join([*parts, self.message]) + (f"; {self.hint}" if self.hint else "")
        return " ".join(text.split())


class UserError(Exception):
    """The user can mend this: exit code 2, and each problem on a line of its own (`error: FILE:LINE: FIELD: …`)."""

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "a UserError names at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RunFailed(Exception):
    """A run went wrong in a way that no check could foresee: exit code 1, one line; the traceback goes to log.txt."""


class Interrupted(Exception):
    """The user or the scheduler stopped the run after a checkpoint: exit code 130. `resume` is the command to go on."""

    def __init__(self, message: str, resume: str | None = None) -> None:
        super().__init__(message)
        self.resume = resume
