"""A run goes on only as what it was: from a checkpoint that verifies, with the recipe and the data it began with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.checkpoints import newest_good, read_progress, step_of
from alignkit.errors import Problem, UserError
from alignkit.recipe import Recipe
from alignkit.runs import Run

# What may change without changing what is computed from the checkpoint on.
HARMLESS = (
    "output_dir",
    "evaluation",
    "training.report_to",
    "training.run_name",
    "training.save_steps",
    "training.save_total_limit",
    "training.logging_steps",
)
LENGTHS = ("training.max_steps", "training.num_train_epochs")
FIX = "change it back, start anew with --overwrite, or go on all the same with --allow-changes"


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on, and what is no longer as it was."""

    checkpoint: Path | None = None
    """None: it begins anew."""
    trained: bool = False
    """Training is over: what is left is to evaluate, which keeps what was done."""
    changes: list[str] = field(default_factory=list)
    """What differs from the run that was stopped; the result is then not the one it would have come to."""
    notes: list[str] = field(default_factory=list)
    """To be said."""

    @property
    def step(self) -> int:
        return -1 if self.checkpoint is None else step_of(self.checkpoint)

    def record(self, processes: int) -> dict[str, Any]:
        """For the manifest."""
        return {"from_step": max(self.step, 0), "processes": processes, "changes": self.changes}


def resumption(recipe: Recipe, run: Run, *, processes: int, allow_changes: bool = False) -> Resumed:
    """Where and how `recipe`'s run goes on.

    Raises:
        UserError: the recipe differs from the run's own in what would change the result, or no checkpoint verifies.
    """
    longer, problems = _compared(recipe, run)
    if problems and not allow_changes:
        raise UserError(problems)
    finished = "result" in run.manifest
    if finished and run.model_dir.is_dir() and not (longer or problems):
        return Resumed(trained=True)
    changes = [f"{problem.field} {problem.message}" for problem in problems]
    checkpoint, skipped = newest_good(run.checkpoints_dir)
    notes = [f"skipped {one}" for one in skipped]
    if skipped and checkpoint is None:
        hint = "start anew with --overwrite; nothing of this run can be gone on with"
        raise UserError([Problem(f"this checkpoint cannot be used: {one.why}", one.path, hint=hint) for one in skipped])
    if checkpoint is None:
        if finished:
            hint = "it was trained with training.save_strategy: no, or they were deleted; start anew with --overwrite"
            raise UserError(Problem("the run is finished and has no checkpoint to go on from", run.path, hint=hint))
        notes.append("no checkpoint was written before the run stopped: it begins anew")
    else:
        notes.append(f"going on from step {step_of(checkpoint)}")
        changes += _processes_changed(read_progress(checkpoint), processes)
    if longer:
        notes.append(f"{longer}: the learning rate follows the longer schedule from here on")
    notes += [f"no longer exact: {change}" for change in changes]
    return Resumed(checkpoint, False, changes, notes)


def check_same_data(recipe: Recipe, run: Run, fingerprint: str | None, allow_changes: bool) -> list[str]:
    """What changed in the data since the run began, which the recipe does not show.

    Raises:
        UserError: where that is not allowed.
    """
    before = run.manifest.get("fingerprints", {}).get("data")
    if before is None or fingerprint is None or before == fingerprint:
        return []
    message = "it is not what it was when the run began: its files, the tokenizer or alignkit itself changed since"
    if not allow_changes:
        raise UserError(recipe.problem("data.train", f"the data: {message}", FIX))
    return [f"the data: {message}"]


def _compared(recipe: Recipe, run: Run) -> tuple[str, list[Problem]]:
    """(what became longer, or nothing; a problem for each field that differs in what is computed)"""
    if not run.recipe_path.exists():
        return "", []  # stopped before training began: nothing to differ from
    from ruamel.yaml import YAML

    before = YAML(typ="safe").load(run.recipe_path.read_text(encoding="utf-8"))
    if before.get("method") != recipe.method:
        message = (
            f"the run in this folder is of the method {before.get('method')}, and this recipe's is {recipe.method}"
        )
        raise UserError(recipe.problem("output_dir", message, "choose another output_dir"))
    longer, problems = [], []
    for key, (old, new) in sorted(_differences(before, recipe.resolved()).items()):
        if key.startswith(HARMLESS):
            continue
        if key in LENGTHS and _is_more(old, new):
            longer.append(f"{key} is {new}, was {old}")
        else:
            message = f"was {old!r} when the run began, is {new!r} now"
            problems.append(Problem(message, recipe.path, field=key, hint=FIX))
    return ", ".join(longer), problems


def _is_more(old: Any, new: Any) -> bool:
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    return numbers and 0 < old < new


def _processes_changed(saved: list[dict[str, Any]], processes: int) -> list[str]:
    if not saved or saved[0]["world_size"] == processes:
        return []
    now = f"{processes} process{'' if processes == 1 else 'es'}"
    return [f"{now} now, {saved[0]['world_size']} when the checkpoint was written"]


def _differences(old: Any, new: Any, place: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {*old, *new}:
            found |= _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
        return found
    return {} if old == new else {place: (old, new)}
