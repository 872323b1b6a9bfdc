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


def load_recipe(path: str | Path, sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read and validate the recipe at `path`, changed by `sets` (`section.field=value`).

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    return recipes.load(Path(path), RECIPE_CLASSES, sets, method)


__all__ = ["RECIPE_CLASSES", "REGISTRY", "Method", "Stage", "load_recipe"]
