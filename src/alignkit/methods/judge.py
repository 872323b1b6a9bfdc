"""A judge's preferences: pairs compared by another model, in both orders. `alignkit judge` runs it; no training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Field, field_validator

from alignkit.errors import Problem
from alignkit.methods.base import Method
from alignkit.recipe import EndpointSection, Recipe, UpstreamSection, judging
from alignkit.recipe.sections import PathText
from alignkit.recipe.upstream import section_class

SHAPES = ("preference",)


class JudgeRecipe(Recipe):
    """Pairs of answers compared by a judge: a local model, or one behind an endpoint."""

    method: Literal["judge"]
    refused_sections: ClassVar[tuple[str, ...]] = ("training", "adapter", "evaluation")

    endpoint: EndpointSection | None = None
    """Where the judge is asked; leave out for a local model."""
    prompt_path: PathText | None = None
    """A text file with {prompt}, {first} and {second}, whose reply is one line `Verdict: A`, `B` or `tie`."""
    when_unsure: Literal["drop", "tie"] = "drop"
    """What becomes of pairs whose two orders disagree: left out, or written to ties.jsonl."""
    generation: UpstreamSection = Field(default_factory=dict, validate_default=True)
    """The fields of transformers' GenerationConfig (an endpoint takes temperature and max_new_tokens)."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Questions at once of a local judge."""

    @field_validator("generation", mode="plain")
    @classmethod
    def _generation(cls, value: Any) -> UpstreamSection:
        return section_class("GenerationConfig", UpstreamSection).model_validate(value)

    def contradictions(self) -> Iterator[Problem]:
        for name in self.refused_sections:
            if name in self.model_fields_set and getattr(self, name):
                yield self.problem(name, "nothing is trained here", "leave it out")
        if self.data is None:
            yield self.problem("data", "there are no pairs to compare", "give data.train")
        elif self.data.eval is not None or self.data.eval_fraction is not None:
            yield self.problem("data", "nothing is held out here", "leave eval and eval_fraction out")
        if self.endpoint is not None:
            for name, message, hint in judging.address_problems(self.endpoint):
                yield self.problem(f"endpoint.{name}", message, hint)
        if self.prompt_path is not None:
            for name, message, hint in judging.prompt_problems(self.base_dir / Path(self.prompt_path).expanduser()):
                yield self.problem(name, message, hint)


def _not_trained(*_args: Any) -> NoReturn:
    raise AssertionError("a judge is not trained")


METHOD = Method(
    name="judge",
    recipe=JudgeRecipe,
    shapes=SHAPES,
    config="transformers:TrainingArguments",
    prepare=_not_trained,
    build_trainer=_not_trained,
)
