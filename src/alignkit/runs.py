"""The run folder: what a run reads and writes, who holds it, and how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from alignkit.errors import Problem, UserError
from alignkit.secrets import safely

Ended = Literal["finished", "failed", "interrupted"]
State = Literal["finished", "failed", "interrupted", "running", "died", "empty"]

# Everything a run may write. `--overwrite` removes these and nothing else: a mistyped output_dir costs no one's files.
OWN_ENTRIES = (
    "recipe.yaml",
    "manifest.json",
    "state.json",
    "metrics.jsonl",
    "samples.jsonl",
    "tensorboard",
    "checkpoints",
    "model",
    "critic",
    "merged",
    "evaluation",
    "report.html",
    "report.md",
    "log.txt",
    ".lock",
)

RUN_FILES = ("recipe.yaml", "manifest.json", "state.json", "metrics.jsonl", "evaluation")
"""A folder with none of these is no run."""


def holds_run(folder: Path) -> bool:
    """Whether there is anything of a run in `folder`."""
    return any((folder / name).exists() for name in RUN_FILES)


# What a start that was killed before it trained leaves behind: no one's loss.
BEFORE_TRAINING = (".lock", "log.txt")


class Run:
    """One run folder. Opening it reads nothing and makes nothing; `hold` makes the folder and takes its lock."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None
        self.elsewhere = False  # another machine's process writes this run
        self._found: frozenset[str] = frozenset()  # what stood in the folder when it was taken hold of
        self._made: list[Path] = []  # the folders above it that were made for it, the nearest first

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __getstate__(self) -> dict[str, Any]:
        """For another process of this run: its folder; the lock stays with the process that took it."""
        return {**vars(self), "path": self.path.absolute(), "_lock": None}

    @property
    def lock_descriptors(self) -> tuple[int, ...]:
        """The held lock's descriptor: a process that inherits it holds the lock too."""
        return () if self._lock is None else (self._lock.fileno(),)

    # ------------------------------------------------------------------ where things lie
    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard_dir(self) -> Path:
        return self.path / "tensorboard"

    @property
    def model_dir(self) -> Path:
        return self.path / "model"

    @property
    def merged_dir(self) -> Path:
        return self.path / "merged"

    @property
    def evaluation_dir(self) -> Path:
        return self.path / "evaluation"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    # ------------------------------------------------------------------ what stands in it
    @property
    def manifest(self) -> dict[str, Any]:
        return _read_json(self.manifest_path)

    def update_manifest(self, values: Mapping[str, Any]) -> None:
        """Merge `values` into manifest.json, section by section. Secrets in them are hidden."""
        _write_json(self.manifest_path, _merged(self.manifest, safely(values)))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        if not self.metrics_path.exists():
            return []
        lines = []
        for text in self.metrics_path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
        return lines

    def drop_metrics_after(self, step: int) -> None:
        """Forget what was logged after `step`, so that a resumed run writes no step twice."""
        kept = [line for line in self.metrics() if line.get("step", 0) <= step]
        _write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept))

    def scores(self) -> list[dict[str, Any]]:
        path = self.evaluation_dir / "scores.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    # ------------------------------------------------------------------ state
    @property
    def state(self) -> State:
        """How the run stands. "running" is the lock's word, never the file's: a dead process holds no lock."""
        if self._locked_by_other() or self._lock is not None:
            return "running"
        ended = _read_json(self.state_path).get("state")
        if ended in ("finished", "failed", "interrupted"):
            return ended
        return "died" if self.state_path.exists() else "empty"

    def told(self, key: str) -> Any:
        """What state.json says under `key`; None where it says nothing."""
        return _read_json(self.state_path).get(key)

    def write_state(
        self, state: Ended | Literal["started"], *, resume: str | None = None, error: str | None = None
    ) -> None:
        values = {"state": state, "resume": resume, "error": error, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        _write_json(self.state_path, {key: safely(value) for key, value in values.items() if value is not None})

    # ------------------------------------------------------------------ taking hold of it
    def problem(self, *, overwrite: bool, resume: bool) -> Problem | None:
        """Why this folder cannot be used for a new run (or to go on with), or None. Changes nothing."""
        try:
            return self._problem(overwrite=overwrite, resume=resume)
        except OSError as error:  # a name that is too long, a disk that is gone
            return self._unusable(error)

    def _unusable(self, error: OSError) -> Problem:
        message = f"the folder cannot be written: {error.strerror or error}"
        return Problem(message, self.path, field="output_dir", hint="choose another output_dir")

    def _problem(self, *, overwrite: bool, resume: bool) -> Problem | None:
        if self.path.exists() and not self.path.is_dir():
            return Problem("is a file, not a folder", file=self.path, field="output_dir")
        if self._locked_by_other():
            return Problem(
                "another process is writing this run",
                self.path,
                field="output_dir",
                hint="wait for it, or choose another output_dir",
            )
        entries = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        if resume and not entries:
            return Problem(
                "there is no run to resume here", self.path, field="output_dir", hint="leave out --resume to start it"
            )
        taken = [name for name in entries if name not in BEFORE_TRAINING]
        if resume or not taken:
            return self._unwritable()
        foreign = [name for name in taken if name not in OWN_ENTRIES]
        if foreign and not self.recipe_path.exists():
            return Problem(
                f"the folder holds other files ({', '.join(foreign[:3])})",
                self.path,
                field="output_dir",
                hint="choose an empty or new folder",
            )
        if not overwrite:
            return Problem(
                f"the folder already holds a run ({self.state})",
                self.path,
                field="output_dir",
                hint="--resume continues it, --overwrite replaces it",
            )
        return self._unwritable()

    @contextlib.contextmanager
    def hold(self, *, overwrite: bool = False, resume: bool = False) -> Iterator[Run]:
        """Make the folder and take its lock; let go at the end, however it ends. What stands in it is left alone."""
        if problem := self.problem(overwrite=overwrite, resume=resume):
            raise UserError(problem)
        try:
            self._made = [folder for folder in self.path.absolute().parents if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            found = frozenset(entry.name for entry in self.path.iterdir())
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:  # a read-only file system, which the folder's mode does not show
            raise UserError(self._unusable(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise UserError(Problem("another process is writing this run", self.path, field="output_dir")) from None
        self._found = found
        try:
            yield self
        finally:
            # The file stays: unlinking it would let two later processes lock two different files of one name.
            self._lock.close()
            self._lock = None

    def discard(self) -> None:
        """Take away what a run that never trained left behind, and the folders made for it where they are then empty.

        What stood there before stays, such as an evaluation of the start model: `--overwrite` replaces things when
        training begins, not when it is refused.
        """
        self._remove(name for name in OWN_ENTRIES if name not in self._found or name in BEFORE_TRAINING)
        with contextlib.suppress(OSError):
            for folder in (self.path, *self._made):
                folder.rmdir()

    def clear(self) -> None:
        """Remove an earlier run's files, but for the log, which is being written."""
        self._remove(name for name in OWN_ENTRIES if name not in (".lock", "log.txt"))

    def _remove(self, names: Iterable[str]) -> None:
        for entry in map(self.path.joinpath, names):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _locked_by_other(self) -> bool:
        lock = self.path / ".lock"
        if self._lock is not None or not lock.exists():
            return False
        try:
            with lock.open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _unwritable(self) -> Problem | None:
        folder = self.path
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            return Problem(f"{folder} is not writable", self.path, field="output_dir")
        return None


# ---------------------------------------------------------------------- disk, git, small files
def require_free_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError when the disk of `folder` has less than `needed` bytes free for `what`."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            Problem(
                f"the disk has {free / 2**20:,.0f} MiB free, {what} needs about {needed / 2**20:,.0f} MiB",
                file=folder,
                field="output_dir",
                hint="free some space, choose another output_dir, or lower training.save_total_limit",
            )
        )


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that `folder` stands at and whether it is dirty; None outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "dirty": dirty, "folder": str(folder.absolute())}
    except (OSError, subprocess.SubprocessError):
        return None


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write aside and rename: a reader, or a kill, never meets half a file."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
