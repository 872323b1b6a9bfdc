"""What pydantic found, said as a person would: what was expected, what is there, and the likely fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from alignkit.errors import Problem
from alignkit.recipe.base import Section, UpstreamSection
from alignkit.recipe.navigate import alternatives, item_type, literals, section_at
from alignkit.recipe.owned import refused
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.source import Document, KeyPath
from alignkit.recipe.suggest import closest, meant

SHOWN_CHOICES = 12
NAMES = {
    list: "a list",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "nothing",
}
BY_ERROR = {"string_type": str, "int_type": int, "float_type": float, "bool_type": bool, "list_type": list}
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
        inside = any(other[: len(path)] == path and len(other) > len(path) for other in by_field)
        if not inside:  # else the alternative that got further says what is wrong
            yield Worder(document, recipe, path).problem(found)


def field_path(error: Mapping[str, Any], document: Document) -> KeyPath:
    """The path of the value that an error is about, as the user wrote it.

    Pydantic's path also names the alternatives of unions, and the index 0 where one item stands for a list of one.
    """
    value: Any = document.data
    path: list[Any] = []
    for key in error["loc"]:
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and key in range(len(value))):
            value = value[key]
        elif error["type"] == "missing" and isinstance(key, str):
            value = None
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
        return self.wrong_type(value, kinds)

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

    def wrong_type(self, value: Any, kinds: set[str]) -> tuple[str, str | None]:
        info = self.info()
        annotation = None if info is None else info.annotation
        if isinstance(self.name, int):
            annotation = item_type(annotation)
        if annotation is None:
            annotation = next((kind for name, kind in BY_ERROR.items() if name in kinds), None)
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
        message = "is missing"
        info = self.info()
        annotation = None if info is None else info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            message = "this section is missing"
        return self.document.problem(self.path, message, at=place)

    def unknown(self) -> Problem:
        """A key that the section does not have: owned elsewhere, of another section, of another tool, or misspelt."""
        name, parent = str(self.name), self.parent
        places: dict[str, str] = {}
        if parent is not None and issubclass(parent, UpstreamSection) and parent.upstream_name:
            places = {**refused(parent.upstream_name), **parent.refused_fields}
        if name in places:
            return self.document.problem(self.path, "is not given here", places[name])
        hint = meant(name, parent, self.recipe, self.document.data)
        return self.document.problem(self.path, "unknown field", hint)


def expected(annotation: Any) -> str:
    """`a whole number or a list of text`: an annotation in words."""
    if annotation is None:
        return "another kind of value"
    words = []
    for one in alternatives(annotation):
        if one is type(None):
            continue
        if get_origin(one) is Literal:
            words.append("one of " + ", ".join(map(str, get_args(one)[:SHOWN_CHOICES])))
        elif get_origin(one) is list and get_origin(get_args(one)[0]) is Literal and words:
            words.append("a list of them")
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
