"""From a place in a recipe to the class of the section there, and from an annotation to its parts."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from alignkit.recipe import upstream
from alignkit.recipe.base import Section, UpstreamSection
from alignkit.recipe.recipe import Recipe, adapter_class
from alignkit.recipe.sections import EvaluationTask, QuantizationSection
from alignkit.recipe.source import KeyPath


def section_at(recipe: type[Recipe], path: KeyPath, data: Any) -> type[Section] | None:
    """The class of the section that stands at `path`, or None where there is none."""
    section: type[Section] | None = recipe
    for key in path:
        if isinstance(key, int):
            continue
        if section is None:
            return None
        if isinstance(section, type) and issubclass(section, Recipe) and key in ("training", "adapter", "quantization"):
            section = _upstream_section(section, key, data)
        elif issubclass(section, EvaluationTask) and key == "generation":
            section = upstream.section_class("GenerationConfig", UpstreamSection)
        else:
            info = section.model_fields.get(key)
            section = None if info is None else _section_in(info.annotation)
    return section


def _upstream_section(recipe: type[Recipe], key: str, data: Any) -> type[Section] | None:
    if key == "training":
        return upstream.section_class(recipe.training_config, recipe.training_section)
    if key == "quantization":
        return upstream.section_class("BitsAndBytesConfig", QuantizationSection)
    value = data.get("adapter") if isinstance(data, dict) else None
    kind = value.get("peft_type") if isinstance(value, dict) else None
    return adapter_class({"peft_type": kind} if kind in upstream.peft_types() else {})


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _section_in(arg)) is not None), None)


def literals(annotation: Any) -> Iterator[Any]:
    """The values of every Literal inside an annotation."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for arg in get_args(annotation):
        yield from literals(arg)


def alternatives(annotation: Any) -> list[Any]:
    """The alternatives of a union, without what Annotated adds."""
    if hasattr(annotation, "__metadata__"):
        return alternatives(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for arg in get_args(annotation) for one in alternatives(arg)]
    return [annotation]


def item_type(annotation: Any) -> Any:
    """The type of the items of the list among the alternatives."""
    for one in alternatives(annotation):
        if get_origin(one) is list:
            return get_args(one)[0]
    return None
