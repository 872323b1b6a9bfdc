"""alignkit: fine-tune, align and evaluate language models on the Hugging Face stack from one typed recipe.

import alignkit

recipe = alignkit.load_recipe("recipes/tiny/sft.yaml")
run = alignkit.train(recipe)
run.scores(), run.model_dir
"""

from alignkit.api import check, evaluate, load_recipe, train
from alignkit.errors import Interrupted, Problem, RunFailed, UserError
from alignkit.recipe import Recipe
from alignkit.runs import Run

__version__ = "0.1.0"

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
