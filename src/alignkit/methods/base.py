"""What a method is: its recipe, the shapes of data it takes, and how its data and trainer are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignkit.importing import importing
from alignkit.recipe import Recipe
from alignkit.runs import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from alignkit.data import Prepared
    from alignkit.models import Precision


@dataclass
class Stage:
    """What the worker has built so far, in the order in which it is built. Methods read it."""

    recipe: Recipe
    run: Run
    say: Callable[[str], None]
    precision: Precision
    arguments: Any = None  # the TrainingArguments of the method's config class
    start: str | None = None
    results: Mapping[str, str] = field(default_factory=dict)  # other recipes that this one names -> their results
    tokenizer: PreTrainedTokenizerBase | None = None
    data: Prepared | None = None
    model: PreTrainedModel | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)


def build_start(stage: Stage) -> Any:
    """The model that training starts from, with the recipe's head and adapter."""
    from alignkit.models import build_model

    assert stage.tokenizer is not None
    return build_model(stage.recipe, stage.tokenizer, stage.precision, head=stage.recipe.head, start=stage.start)


def nothing_more(_stage: Stage, _trainer: Any) -> None:
    """Most results are complete once the model is saved."""


@dataclass(frozen=True)
class Method:
    """One training method. `config` and the functions' imports stay unread until the worker calls for them."""

    name: str
    recipe: type[Recipe]
    shapes: tuple[str, ...]  # the shapes of examples it takes, preferred first
    config: str  # the upstream config class of `training:`, as module:name
    prepare: Callable[[Stage], Prepared]
    build_trainer: Callable[[Stage], Trainer]
    answers: str = "completions"
    """What its result gives for a text, in the words of `alignkit predict`: completions, labels, rewards."""
    build_model: Callable[[Stage], Any] = build_start
    finish: Callable[[Stage, Any], None] = nothing_more
    """(stage, trainer), once the result is saved: checks it, or writes what stands beside it. May raise RunFailed."""

    def config_class(self) -> Any:
        """The live config class. Imports the trainer's library: seconds."""
        from importlib import import_module

        module, name = self.config.split(":")
        with importing():
            return getattr(import_module(module), name)
