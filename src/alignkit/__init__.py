"""alignkit: fine-tune, align and evaluate language models on the Hugging Face stack from one typed recipe.

import alignkit

recipe = alignkit.load_recipe("recipes/tiny/sft.yaml")
run = alignkit.train(recipe)
run.scores(), run.model_dir
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignkit.api import check, evaluate, load_recipe, train
    from alignkit.errors import Interrupted, Problem, RunFailed, UserError
    from alignkit.recipe import Recipe
    from alignkit.runs import Run

__version__ = "0.1.0"

_HOMES = {
    "alignkit.api": ("check", "evaluate", "load_recipe", "train"),
    "alignkit.errors": ("Interrupted", "Problem", "RunFailed", "UserError"),
    "alignkit.recipe": ("Recipe",),
    "alignkit.runs": ("Run",),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for: a command pays only for what it uses."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Interrupted",
    "Problem",
    "Recipe",
    "Run",
    "RunFailed",
    "UserError",
    "check",
    "evaluate",
    "load_recipe",
    "train",
]
