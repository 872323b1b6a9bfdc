"""The methods: one file each, listed once here. Commands, help texts and schema come from this registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignkit import recipe as recipes
from alignkit.methods.base import Method, Stage
from alignkit.methods.sft import SFT
from alignkit.recipe import Recipe

REGISTRY: dict[str, Method] = {method.name: method for method in (SFT,)}

RECIPE_CLASSES: dict[str, type[Recipe]] = {name: method.recipe for name, method in REGISTRY.items()}


class EvaluationRecipe(Recipe):
    """A recipe that nothing is trained by: `model`, `evaluation` and `output_dir`."""

    method: str = recipes.EVALUATION_ONLY


def load_recipe(path: str | Path, sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read and validate the recipe at `path`, changed by `sets` (`section.field=value`).

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    return recipes.load(Path(path), RECIPE_CLASSES, sets, method)


def load_for_evaluation(path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """Like `load_recipe`, for a recipe of any method or of none."""
    return recipes.load(Path(path), {**RECIPE_CLASSES, recipes.EVALUATION_ONLY: EvaluationRecipe}, sets)


__all__ = ["RECIPE_CLASSES", "REGISTRY", "Method", "Stage", "load_for_evaluation", "load_recipe"]
