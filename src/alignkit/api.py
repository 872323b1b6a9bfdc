"""The Python API: the words of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit import launch, methods, preflight
from alignkit import recipe as recipes
from alignkit.recipe import Recipe
from alignkit.runs import Run


def load_recipe(recipe: str | Path | Mapping[str, Any], sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read and validate a recipe: a YAML file, or the same as a mapping (its paths are relative to the current folder).

    Args:
        sets: changes, each as `section.field=value`.
        method: the method that the recipe must be of, or None.

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    if isinstance(recipe, Mapping):
        return recipes.load_mapping(recipe, methods.RECIPE_CLASSES, base_dir=Path.cwd())
    return methods.load_recipe(recipe, sets, method)


def check(recipe: Recipe) -> None:
    """Raise a UserError with everything that the recipe's files alone can tell to be wrong. Imports no torch."""
    preflight.require(recipe, methods.REGISTRY[recipe.method].shapes)


def train(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> Run:
    """Check `recipe`, train it in this process, evaluate it, and return its run folder.

    Raises:
        UserError: something the user can mend, before training.
        RunFailed: the run went wrong; the run's state says how.
        Interrupted: stopped by a signal after a checkpoint; `resume=True` goes on.
    """
    check(recipe)
    return launch.train(recipe, resume=resume, overwrite=overwrite)
