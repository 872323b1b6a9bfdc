"""A recipe: what every method's has in common. A method subclasses it, names its config, and adds its own sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from alignkit.errors import Problem
from alignkit.recipe import upstream
from alignkit.recipe.base import Section
from alignkit.recipe.paths import with_absolute_paths
from alignkit.recipe.sections import (
    AdapterSection,
    DataSection,
    EvaluationTask,
    ModelSection,
    PathText,
    QuantizationSection,
    TrainingSection,
)
from alignkit.recipe.source import Document, as_path

Head = Literal["causal_lm", "sequence_classification", "token_classification"]


class Recipe(Section):
    """One job, complete: the model, the data, how it is trained, and what is measured afterwards.

    A method's recipe sets `training_config`, the upstream class that `training` holds the fields of. If it has fields
    of its own there, it subclasses `TrainingSection` and names that in `training_section`.
    """

    training_config: ClassVar[str] = "TrainingArguments"
    training_section: ClassVar[type[TrainingSection]] = TrainingSection
    can_pack: ClassVar[bool] = False
    """Whether this method's rows may be packed."""

    method: str
    """The training method; it equals the command: sft, dpo, …"""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seeds everything: weights, adapters, data order, dropout, sampling."""
    output_dir: str = Field(min_length=1)
    """The run folder, relative to the current folder."""
    model: ModelSection
    """Where the model comes from."""
    quantization: QuantizationSection | None = None
    """Load the frozen weights in 8 or 4 bits; leave out for full precision."""
    adapter: AdapterSection | None = None
    """Train an adapter (LoRA and its kin); leave out to train every weight."""
    data: DataSection | None = None
    """What is trained on."""
    training: TrainingSection = Field(default_factory=dict, validate_default=True)
    """How it is trained: the fields of the method's TRL or transformers config."""
    evaluation: list[EvaluationTask] = Field(default=[])
    """What is measured when training has ended."""

    _document: Document = PrivateAttr(default_factory=Document)

    @field_validator("training", mode="plain")
    @classmethod
    def _training(cls, value: Any) -> TrainingSection:
        return upstream.section_class(cls.training_config, cls.training_section).model_validate(value)

    @field_validator("quantization", mode="plain")
    @classmethod
    def _quantization(cls, value: Any) -> QuantizationSection | None:
        if value is None:
            return None
        return upstream.section_class("BitsAndBytesConfig", QuantizationSection).model_validate(value)

    @field_validator("adapter", mode="plain")
    @classmethod
    def _adapter(cls, value: Any) -> AdapterSection | None:
        return None if value is None else adapter_class(value).model_validate(value)

    @property
    def path(self) -> Path | None:
        """The recipe's file; None for one made from a mapping."""
        return self._document.path

    @property
    def base_dir(self) -> Path:
        """The folder that relative input paths start from."""
        return self._document.base_dir

    def problem(self, field: str, message: str, hint: str | None = None) -> Problem:
        """A problem with `field` (`training.learning_rate`, `data.train.0.path`), at the line where it stands."""
        return self._document.problem(as_path(field), message, hint)

    @property
    def head(self) -> Head:
        """What the method's model has on top."""
        return "causal_lm"

    def inputs(self) -> dict[str, str]:
        """The other recipes whose results this one needs, as their fields give them: field -> path."""
        return {} if self.model.from_recipe is None else {"model.from_recipe": self.model.from_recipe}

    def tasks(self) -> list[EvaluationTask]:
        """What is measured once training has ended: `evaluation`; a method that always measures adds its own."""
        return self.evaluation

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together in this method's recipe; methods override it. Asked once everything else holds."""
        return iter(())

    def resolved(self) -> dict[str, Any]:
        """Every value that is used, as plain data: it loads to an equal recipe from any folder.

        Local input paths are absolute; gradient accumulation is left to `global_batch_size` where that is given.
        """
        values = with_absolute_paths(self, self.base_dir)
        if values["training"].get("global_batch_size") is not None:
            values["training"].pop("gradient_accumulation_steps", None)
        return values

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that shapes the result: all values but the output folder."""
        values = self.resolved()
        values.pop("output_dir")
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and type(self) is type(other) and self.resolved() == other.resolved()

    __hash__ = None  # type: ignore[assignment]


class ReferenceRecipe(Recipe):
    """A recipe of a method that holds its policy near a frozen reference model."""

    reference: PathText | None = None
    """A model folder, an adapter folder or a Hub id that the policy is held near (default: what training starts
    from)."""


EVALUATION_ONLY = "eval"
"""The `method` of a recipe that says none, where such are taken: nothing is trained by it."""


class EvaluationRecipe(Recipe):
    """A recipe that is only evaluated: `model`, `evaluation` and `output_dir`."""

    method: str = EVALUATION_ONLY


def adapter_class(value: Any) -> type[AdapterSection]:
    """The adapter section for the `peft_type` that `value` gives (LORA by default)."""
    types = upstream.peft_types()
    kind = value.get("peft_type", "LORA") if isinstance(value, dict) else "LORA"
    if not isinstance(kind, str) or kind not in types:
        raise ValidationError.from_exception_data(
            "adapter",
            [
                InitErrorDetails(
                    type=PydanticCustomError("choice", "unknown", {"choices": ["LORA", *types]}),
                    loc=("peft_type",),
                    input=kind,
                )
            ],
        )
    return upstream.section_class(types[kind], AdapterSection)
