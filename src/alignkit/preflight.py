"""What can be known to be wrong before torch is imported: the model's folder, the data's files."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.errors import Problem, UserError
from alignkit.examples import precheck
from alignkit.model_folders import check_model
from alignkit.recipe import Recipe


def problems(recipe: Recipe, shapes: Sequence[str]) -> list[Problem]:
    """Every problem of the recipe's inputs that their files alone can tell, the model's first."""
    return [*check_model(recipe), *precheck(recipe, shapes)]


def require(recipe: Recipe, shapes: Sequence[str]) -> None:
    """Raise one UserError with all of them."""
    if found := problems(recipe, shapes):
        raise UserError(found)
