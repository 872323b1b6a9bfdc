"""`alignkit reproduce RUN`: the same run built again, beside what differs now, and whether it comes to the same."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignkit import launch, methods, preflight
from alignkit.errors import Problem, RunFailed, UserError
from alignkit.recipe import Recipe
from alignkit.reproduce.changes import Change, accelerate_of_run, changes, results_of_run, start_of_run
from alignkit.reproduce.outcome import Verdict, compare
from alignkit.runs import Run

__all__ = ["Change", "Reproduction", "Verdict", "command", "reproduce"]


@dataclass(frozen=True)
class Reproduction:
    """A run, what was built from its recipe, what differed before that, and a verdict for each part."""

    run: Run
    again: Run
    changes: list[Change]
    verdicts: list[Verdict]

    @property
    def equal(self) -> bool:
        return all(verdict.equal is not False for verdict in self.verdicts)

    def plain(self) -> dict[str, Any]:
        return {
            "run": str(self.run.path),
            "reproduced": str(self.again.path),
            "equal": self.equal,
            "changes": [asdict(change) for change in self.changes],
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }


def reproduce(run: Run, again: Run, found: list[Change] | None = None) -> Reproduction:
    """Train the recipe of `run` into `again` (finish it, where that began), and compare what came of both.

    Args:
        found: what differs now, where it is known already.

    Raises:
        UserError: a run that is not finished, or whose folder cannot be built.
        RunFailed, Interrupted: as in training; the same command goes on.
    """
    recipe = _recipe_of(run)
    found = changes(run, recipe) if found is None else found
    recipe = recipe.model_copy(update={"output_dir": str(again.path)})
    begun = again.manifest.get("fingerprints", {}).get("recipe") == recipe.fingerprint()
    if not (begun and again.state == "finished"):
        preflight.require(recipe, methods.get(recipe.method).shapes)
        launch.train(
            recipe,
            resume=begun and again.state in ("interrupted", "died", "failed"),
            command=["alignkit", recipe.method, str(again.recipe_path)],
            accelerate=accelerate_of_run(run),
            start=None if recipe.model.from_recipe is None else start_of_run(run),
            results=results_of_run(run),
        )
    done = Reproduction(run, again, found, compare(run, again))
    told = {key: value for key, value in done.plain().items() if key != "reproduced"}
    again.update_manifest({"reproduction": told})
    return done


def _recipe_of(run: Run) -> Recipe:
    if not run.path.is_dir():
        raise UserError(Problem("there is no such run folder", run.path))
    if not run.recipe_path.exists() or not run.manifest:
        raise UserError(Problem("this folder holds no run: it needs recipe.yaml and manifest.json", run.path))
    return methods.load_recipe(run.recipe_path)


def command(path: Path, output_dir: Path | None, *, allow_changes: bool, as_json: bool) -> None:
    """Print what differs, train, and print one verdict a part. Raises RunFailed where the results are not the same."""
    run = Run(path)
    again = Run(output_dir or path.with_name(f"{path.resolve().name}-reproduced"))
    recipe = _recipe_of(run)
    if run.state != "finished":
        hint = run.told("resume") if run.state in ("interrupted", "died", "failed") else "wait for it"
        message = f"the run is not finished ({run.state}): there is nothing to compare with"
        raise UserError(Problem(message, path, hint=f"go on with: {hint}" if hint else None))
    if os.path.realpath(run.path) == os.path.realpath(again.path):
        raise UserError(Problem("is the run itself", again.path, field="--output-dir", hint="name another folder"))
    found = changes(run, recipe)
    if not as_json:
        print(table(run, found), flush=True)
    content = [change for change in found if change.content]
    if content and not allow_changes:
        hint = "put back what it was, or say --allow-changes to train with what is there now"
        raise UserError(
            [Problem(f"was {c.then}, is {c.now}", path, field=f"{c.part} {c.name}", hint=hint) for c in content]
        )
    done = reproduce(run, again, found)
    print(json.dumps(done.plain(), indent=2) if as_json else verdicts(done))
    if not done.equal:
        parts = ", ".join(verdict.part for verdict in done.verdicts if verdict.equal is False)
        raise RunFailed(f"{again.path} is not the same as {run.path}: {parts}")


def table(run: Run, found: list[Change]) -> str:
    """What differs now, in three columns."""
    if not found:
        return f"nothing differs now from {run.manifest_path}: versions, git, hardware, environment, inputs"
    rows = [("differs now", "then", "now")]
    rows += [(f"{change.part}: {change.name}", _cell(change.then), _cell(change.now)) for change in found]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    return "\n".join(f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}".rstrip() for a, b, c in rows)


def _cell(value: Any) -> str:
    text = "none" if value in (None, [], "") else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def verdicts(done: Reproduction) -> str:
    """One line a part, and the last word."""
    width = max(len(verdict.part) for verdict in done.verdicts)
    marks = {True: "same", False: "DIFFERS", None: "–"}
    lines = [f"{v.part.ljust(width)}  {marks[v.equal].ljust(7)}  {v.text}" for v in done.verdicts]
    end = "the same result" if done.equal else "not the same result"
    return "\n".join([*lines, f"{end}: {done.again.path}"])
