"""What pydantic found, said as a person would: what was expected, what is there, and the likely fix."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from alignkit.errors import Problem
from alignkit.recipe import upstream
from alignkit.recipe.base import Section, UpstreamSection
from alignkit.recipe.owned import ALIASES, refused
from alignkit.recipe.recipe import Recipe, adapter_class
from alignkit.recipe.sections import EvaluationTask, QuantizationSection
from alignkit.recipe.source import Document, KeyPath, dotted

SHOWN_CHOICES = 12
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
LIMITS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be less than {}"),
}


def problems(errors: Iterable[Mapping[str, Any]], document: Document, recipe: type[Recipe]) -> Iterator[Problem]:
    """One problem for each field that pydantic found wrong, in the order in which they stand in the file."""
    by_field: dict[KeyPath, list[Mapping[str, Any]]] = {}
    for error in errors:
        by_field.setdefault(field_path(error, document), []).append(error)
    for path, found in by_field.items():
        yield Worder(document, recipe, path).problem(found)


def field_path(error: Mapping[str, Any], document: Document) -> KeyPath:
    """The path of the value that an error is about, without pydantic's names for the alternatives of a union."""
    value: Any = document.data
    path: list[Any] = []
    for place, key in enumerate(error["loc"]):
        last = place == len(error["loc"]) - 1
        if isinstance(value, dict) and (key in value or (last and error["type"] == "missing")):
            value = value.get(key)
        elif isinstance(key, int) and isinstance(value, list) and key < len(value):
            value = value[key]
        elif (key == "path" and isinstance(value, str)) or (isinstance(key, str) and isinstance(value, list)) or not (isinstance(key, int) and isinstance(value, dict | str)):
            continue
        else:
            continue
        path.append(key)
    return tuple(path)


class Worder:
    """Words the problem with one field."""

    def __init__(self, document: Document, recipe: type[Recipe], path: KeyPath) -> None:
        self.document, self.recipe, self.path = document, recipe, path
        self.name = path[-1] if path else ""
        self.parent = section_at(recipe, path[:-1], document.data) if path else None

    def problem(self, errors: list[Mapping[str, Any]]) -> Problem:
        """One problem out of all that pydantic says of this field: a union gives one error an alternative."""
        kinds = {error["type"] for error in errors}
        first = errors[0]
        if "missing" in kinds:
            return self.missing()
        if "extra_forbidden" in kinds:
            return self.unknown()
        if "invalid_key" in kinds:
            return self.document.problem(self.path, "a field's name must be text")
        message, hint = self.wording(first, errors, kinds)
        return self.document.problem(self.path, message, hint)

    def wording(
        self, first: Mapping[str, Any], errors: list[Mapping[str, Any]], kinds: set[str]
    ) -> tuple[str, str | None]:
        value = first["input"]
        for error in errors:
            if error["type"] in LIMITS:
                word, text = LIMITS[error["type"]]
                return f"{text.format(shown(error['ctx'][word]))}, got {shown(error['input'])}", None
        if "finite_number" in kinds:
            return f"must be a finite number, got {shown(value)}", None
        if "value_error" in kinds:
            return str(first["msg"]).removeprefix("Value error, "), None
        if "too_short" in kinds:
            return "is empty; name at least one", None
        if "string_too_short" in kinds:
            return "is empty", None
        if "choice" in kinds:
            return self.choice(value, first["ctx"]["choices"])
        choices = [choice for choice in self.choices() if isinstance(choice, str)]
        if choices and (isinstance(value, str) or ("literal_error" in kinds and kinds == {"literal_error"})):
            return self.choice(value, choices)
        return self.wrong_type(value)

    def choice(self, value: Any, choices: Iterable[str]) -> tuple[str, str | None]:
        options = list(choices)
        close = closest(str(value), options)
        listed = ", ".join(options[:SHOWN_CHOICES]) + (", …" if len(options) > SHOWN_CHOICES else "")
        if isinstance(value, dict | list):
            return f"expected one of {listed}, got {shown(value)}", None
        what = f"{shown(value)} is not one of its values"
        return (what, f"did you mean {close}?") if close else (f"{what} ({listed})", None)

    def choices(self) -> list[Any]:
        """Every choice that the field offers, of whatever alternative."""
        info = self.info()
        return [] if info is None else list(literals(info.annotation))

    def info(self) -> FieldInfo | None:
        """The field's declaration: of an item of a list, the list's."""
        path = list(self.path)
        while path and isinstance(path[-1], int):
            path.pop()
        parent = section_at(self.recipe, tuple(path[:-1]), self.document.data)
        return parent.model_fields.get(path[-1]) if parent and path else None

    def wrong_type(self, value: Any) -> tuple[str, str | None]:
        info = self.info()
        annotation = None if info is None else info.annotation
        if isinstance(self.name, int):
            annotation = item_type(annotation)
        if value is None:
            return f"is empty: expected {expected(annotation)}", "leave the key out to take its default"
        hint = None
        number = any(kind in (int, float) for kind in alternatives(annotation))
        if isinstance(value, str):
            if number and is_number(value):
                hint = "remove the quotes"
            if bool in alternatives(annotation) and value.lower() in ("yes", "on", "no", "off", "true", "false"):
                hint = f"write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}"
        return f"expected {expected(annotation)}, got {shown(value)}", hint

    def missing(self) -> Problem:
        place = self.path[:-1]
        message = "is missing" if not self.path[:-1] else "is missing here"
        info = self.info()
        annotation = None if info is None else info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            message = "this section is missing"
        near = closest(str(self.name), self.unknown_siblings())
        hint = f"{near} looks like it" if near else None
        return self.document.problem(self.path, message, hint, at=place)

    def unknown_siblings(self) -> list[str]:
        """Keys beside this one that no field has."""
        value: Any = self.document.data
        for key in self.path[:-1]:
            value = value[key]
        known = self.parent.model_fields if self.parent else {}
        return [key for key in value if isinstance(key, str) and key not in known] if isinstance(value, dict) else []

    def unknown(self) -> Problem:
        """A key that the section does not have: owned elsewhere, of another section, of another tool, or misspelt."""
        name, parent = str(self.name), self.parent
        fields = list(parent.model_fields) if parent else []
        if parent is not None and issubclass(parent, UpstreamSection) and parent.upstream_name:
            places = {**refused(parent.upstream_name), **self.refused_by_method()}
            if name in places and (name in upstream.fields(parent.upstream_name) or name in self.refused_by_method()):
                return self.document.problem(self.path, "is not given here", places[name])
        close = closest(name, fields)
        if close and (name.replace("-", "_").lower() == close or len(name) > 3):
            return self.document.problem(self.path, "unknown field", f"did you mean {close}?")
        for home, owner in elsewhere(self.recipe, self.document.data):
            if owner is not parent and name in owner.model_fields:
                return self.document.problem(
                    self.path,
                    "unknown field",
                    f"it belongs in {home}" if home else "it belongs at the top of the recipe",
                )
        if name in ALIASES:
            return self.document.problem(self.path, "unknown field", f"did you mean {ALIASES[name]}?")
        for home, owner in elsewhere(self.recipe, self.document.data):
            if (near := closest(name, list(owner.model_fields), cutoff=0.85)) and owner is not parent:
                return self.document.problem(
                    self.path, "unknown field", f"did you mean {home + '.' if home else ''}{near}?"
                )
        listed = f"the fields here are {', '.join(fields)}" if 0 < len(fields) <= 16 else None
        return self.document.problem(self.path, "unknown field", listed)

    def refused_by_method(self) -> dict[str, str]:
        return self.recipe.refused_training if self.path[:1] == ("training",) else {}


def closest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option that `word` most likely stands for; dashes and capitals are forgiven."""
    plain = {option.lower().replace("-", "_"): option for option in reversed(list(options))}
    found = get_close_matches(word.lower().replace("-", "_"), list(plain), n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def elsewhere(recipe: type[Recipe], data: dict[Any, Any]) -> Iterator[tuple[str, type[Section]]]:
    """The sections of a recipe in which a misplaced key may belong: ("training", its class), …; "" is the top."""
    yield "", recipe
    for name in recipe.model_fields:
        if (section := section_at(recipe, (name,), data)) is not None and section is not EvaluationTask:
            yield name, section


def section_at(recipe: type[Recipe], path: KeyPath, data: Any) -> type[Section] | None:
    """The class of the section that stands at `path`, or None where there is none."""
    section: type[Section] | None = recipe
    for depth, key in enumerate(path):
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
        del depth
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


def expected(annotation: Any) -> str:
    """`a whole number or a list of text`: an annotation in words."""
    if annotation is None:
        return "something else"
    words = []
    for one in alternatives(annotation):
        if one is type(None):
            continue
        if get_origin(one) is Literal:
            words.append("one of " + ", ".join(map(str, get_args(one)[:SHOWN_CHOICES])))
        elif get_origin(one) is list:
            words.append(
                "a list" if get_args(one)[0] in (Any, None) else f"a list of {plural(expected(get_args(one)[0]))}"
            )
        elif one in NAMES:
            words.append(NAMES[one])
        elif get_origin(one) is dict or (isinstance(one, type) and issubclass(one, Section)):
            words.append("a mapping of fields")
        else:
            words.append("a value")
    return " or ".join(dict.fromkeys(words)) or "nothing"


def plural(words: str) -> str:
    return {
        "a whole number": "whole numbers",
        "a number": "numbers",
        "text": "texts",
        "a mapping of fields": "mappings",
    }.get(words, words)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shown(value: Any) -> str:
    """A value as the user wrote it, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


__all__ = ["closest", "dotted", "field_path", "problems", "shown"]
