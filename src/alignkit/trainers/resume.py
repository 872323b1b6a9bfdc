"""A run goes on only as what it was: the recipe it is resumed with must be the one it began with."""

from __future__ import annotations

from typing import Any

from alignkit.errors import Problem, UserError
from alignkit.recipe import Recipe
from alignkit.runs import Run

# What may change without changing what is computed from the checkpoint on.
HARMLESS = ("output_dir", "evaluation", "training.report_to", "training.run_name", "training.save_total_limit")


def check_same_recipe(recipe: Recipe, run: Run) -> None:
    """Raise a UserError naming each field in which `recipe` differs from the run's own."""
    if not run.recipe_path.exists():
        return  # stopped before training began: nothing to differ from
    from ruamel.yaml import YAML

    before = YAML(typ="safe").load(run.recipe_path.read_text(encoding="utf-8"))
    changed = [
        (key, old, new)
        for key, (old, new) in sorted(_differences(before, recipe.resolved()).items())
        if not key.startswith(HARMLESS)
    ]
    if changed:
        raise UserError(
            [
                Problem(
                    f"was {old!r} when the run began, is {new!r} now",
                    recipe.path,
                    field=key,
                    hint="change it back, or start anew with --overwrite",
                )
                for key, old, new in changed
            ]
        )


def _differences(old: Any, new: Any, place: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {*old, *new}:
            found |= _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
        return found
    return {} if old == new else {place: (old, new)}
