"""Sections with upstream's fields, built on demand from the committed snapshot (`scripts/snapshot_upstream.py`).

Types, choices, bounds, suggestions and the JSON Schema all come from here; no upstream library is imported.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from alignkit.recipe.base import UpstreamSection
from alignkit.recipe.defaults import Default, differing
from alignkit.recipe.overlay import OVERLAY, Bound
from alignkit.recipe.owned import refused

SNAPSHOT = Path(__file__).with_name("upstream_fields.json")
NO_BOUND = Bound()
SectionType = TypeVar("SectionType", bound=UpstreamSection)


@dataclass(frozen=True, slots=True)
class UpstreamField:
    """One field of an upstream class: the snapshot's line with the overlay applied."""

    name: str
    type: str
    default: Any
    choices: tuple[str, ...]
    help: str
    bound: Bound

    @property
    def kinds(self) -> list[str]:
        """The alternatives of the type: `int|list[int]|null` -> int, list[int], null."""
        return self.type.split("|")


@functools.cache
def snapshot() -> dict[str, Any]:
    """The committed file: versions, peft_types and classes."""
    found: dict[str, Any] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return found


def peft_types() -> dict[str, str]:
    """peft_type -> the name of peft's config class, for the adapters that alignkit trains."""
    types: dict[str, str] = snapshot()["peft_types"]
    return types


def _lineage(name: str) -> list[str]:
    """The class and its bases, the base first."""
    base = snapshot()["classes"][name].get("base")
    return [*(_lineage(base) if base else []), name]


@functools.cache
def fields(name: str) -> dict[str, UpstreamField]:
    """Every field of an upstream class, with its bases' and with the overlay applied."""
    specs: dict[str, dict[str, Any]] = {}
    bounds: dict[str, Bound] = {}
    for owner in _lineage(name):
        specs |= snapshot()["classes"][owner]["fields"]
        bounds |= OVERLAY.get(owner, {})
    made = {}
    for field, spec in specs.items():
        bound = bounds.get(field, NO_BOUND)
        choices = bound.choices or tuple(spec.get("choices", ()))
        kind, default = bound.type or spec["type"], spec.get("default")
        if type(default) is int and "int" not in kind.split("|"):
            default = float(default)  # upstream's `logging_steps: float = 500`: equal to what a recipe reads as
        made[field] = UpstreamField(field, kind, default, choices, spec["help"], bound)
    return made


def _annotation(field: UpstreamField, kind: str) -> Any:
    """The pydantic type of one alternative."""
    bound = field.bound
    simple = {"null": None, "bool": bool, "dict": dict[Any, Any], "any": Any}
    if kind in simple:
        return simple[kind]
    if kind in ("int", "float"):
        limits = {name: getattr(bound, name) for name in ("ge", "gt", "le", "lt") if getattr(bound, name) is not None}
        number = int if kind == "int" else float
        return Annotated[number, Field(**limits)] if limits else number
    if kind == "str":
        if bound.pattern:
            return Union[Literal[field.choices], Annotated[str, Field(pattern=bound.pattern)]]  # noqa: UP007
        return Literal[field.choices] if field.choices else str
    if kind.startswith("list["):
        return GenericAlias(list, (_annotation(field, kind[5:-1]),))
    return section_class(kind, UpstreamSection)


def _field(field: UpstreamField, default: Default | None) -> tuple[Any, FieldInfo]:
    annotation: Any = Union.__getitem__(tuple(_annotation(field, kind) for kind in _kinds(field)))
    if default is None:
        return annotation, Field(default=field.default, description=field.help or None)
    if default.value_for is None:
        return annotation, Field(default=default.value, description=field.help or None)
    choose, upstream = default.value_for, field.default

    def factory(values: dict[str, Any]) -> Any:
        return choose(values, upstream)

    return annotation, Field(default_factory=factory, description=field.help or None)


def _kinds(field: UpstreamField) -> list[str]:
    """The alternatives, of which a nested class replaces a bare dict: it says what may stand in it."""
    kinds = field.kinds
    nested = any(kind in snapshot()["classes"] for kind in kinds)
    return [kind for kind in kinds if not (nested and kind == "dict")]


@functools.cache
def section_class(name: str, base: type[SectionType]) -> type[SectionType]:
    """`base` with the fields of the upstream class `name`, but for those that alignkit owns elsewhere.

    Fields that `base` declares itself win over upstream's of the same name. Fields whose default depends on others
    come last, so that the others are known when it is chosen.
    """
    own = set(base.model_fields)
    left_out = own | set(base.refused_fields) | set(refused(name))
    kept = {key: field for key, field in fields(name).items() if key not in left_out}
    defaults = {default.field: default for default in differing(name)}
    ordered = sorted(kept, key=lambda key: key in defaults and defaults[key].value_for is not None)
    made: Any = {key: _field(kept[key], defaults.get(key)) for key in ordered}
    cls = create_model(name, __base__=base, __module__=base.__module__, **made)
    cls.upstream_name = name
    cls.upstream_fields = frozenset(kept)
    cls.nested_configs = {
        key: kind
        for key, field in kept.items()
        for kind in field.kinds
        if kind in snapshot()["classes"] and "dict" not in field.kinds
    }
    cls.upstream_defaults = {key: field.default for key, field in kept.items()}
    return cls
