"""The methods: one file each, and one line in the table below. Commands, help texts and schema come from it.

Nothing is imported until it is asked for: `alignkit --help` needs the table alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignkit.methods.base import Method
    from alignkit.recipe import Recipe

# The command, which is also the module in this package and the recipe's `method` -> what it does.
SUMMARIES = {
    "classify": "Classifiers of texts or tokens: encoders or decoders, full or LoRA.",
    "sft": "Supervised fine-tuning of a causal language model: full, LoRA or QLoRA.",
    "reward": "A reward model from pairs of answers: full, LoRA or QLoRA.",
    "dpo": "Direct preference optimisation from pairs of answers: full, LoRA or QLoRA.",
    "kto": "Kahneman-Tversky optimisation from single answers that are good or bad: full, LoRA or QLoRA.",
    "ppo": "Reinforcement learning with a critic (PPO): from rewards, reward models, or rewards for single tokens.",
    "grpo": "Reinforcement learning from verifiable rewards, in groups of completions (GRPO and its kin).",
    "rloo": "Reinforcement learning with a leave-one-out baseline (RLOO).",
}

# Recipes that are no training command's own: `alignkit judge` runs them.
NOT_TRAINED = ("judge",)


def get(name: str) -> Method:
    """The method of this name: `METHOD` in the module of this name."""
    method: Method = import_module(f"alignkit.methods.{name}").METHOD
    return method


class _RecipeClasses(Mapping[str, "type[Recipe]"]):
    """Method -> its recipe class, imported when it is asked for: checking one recipe needs one of them."""

    def __getitem__(self, name: str) -> type[Recipe]:
        if name not in tuple(self):
            raise KeyError(name)
        return get(name).recipe

    def __iter__(self) -> Iterator[str]:
        return iter((*SUMMARIES, *NOT_TRAINED))

    def __len__(self) -> int:
        return len(SUMMARIES) + len(NOT_TRAINED)


def recipe_classes() -> Mapping[str, type[Recipe]]:
    """Each method's recipe class."""
    return _RecipeClasses()


def load_recipe(path: str | Path, sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read and validate the recipe at `path`, changed by `sets` (`section.field=value`).

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    from alignkit.recipe import load

    return load(Path(path), recipe_classes(), sets, method)


def load_for_evaluation(path: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """Like `load_recipe`, for a recipe of any method, or of none: `model`, `evaluation` and `output_dir` are enough."""
    from alignkit.recipe import EVALUATION_ONLY, EvaluationRecipe, load

    return load(Path(path), {**recipe_classes(), EVALUATION_ONLY: EvaluationRecipe}, sets)
