"""What a user meant by a word that a recipe does not know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any

from alignkit.recipe.base import Section, UpstreamSection
from alignkit.recipe.navigate import section_at
from alignkit.recipe.owned import ALIASES
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.sections import EvaluationTask
from alignkit.recipe.upstream import snapshot

LISTED_FIELDS = 16
SURE = 0.85  # a name of another section is offered only where it is this close, and closer than any of this section


def closest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option that `word` most likely stands for; dashes and capitals are forgiven."""
    ratio, best = _closest(word, options)
    return best if ratio >= cutoff else None


def _closest(word: str, options: Iterable[str]) -> tuple[float, str | None]:
    best: tuple[float, str | None] = (0.0, None)
    for option in options:
        ratio = SequenceMatcher(None, _plain(word), _plain(option)).ratio()
        if ratio > best[0]:
            best = (ratio, option)
    return best


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def meant(name: str, here: type[Section] | None, recipe: type[Recipe], data: Any) -> str | None:
    """The hint for the unknown key `name` of the section `here`: its place, another tool's word, or a misspelling."""
    fields = list(here.model_fields) if here else []
    others = [(home, section) for home, section in _sections(recipe, data) if section is not here]
    if (word := ALIASES.get(name)) and _known(word, recipe, data):
        return f"did you mean {word.removeprefix(_home_of(here, recipe, data))}?"
    for home, section in others:
        if name in section.model_fields:
            return f"it belongs in `{home}`" if home else "it belongs at the top of the recipe"
    if (holder := _relative_with(name, here)) is not None:
        return holder
    near = _closest(name, fields)
    far = max(
        ((*_closest(name, section.model_fields), home) for home, section in others), default=(0.0, None, ""), key=_ratio
    )
    if far[0] >= SURE and far[0] > near[0]:
        return f"did you mean {far[2]}{'.' if far[2] else ''}{far[1]}?"
    if near[0] >= 0.6:
        return f"did you mean {near[1]}?"
    return f"the fields here are {', '.join(fields)}" if 0 < len(fields) <= LISTED_FIELDS else None


def place_of(name: str, recipe: type[Recipe]) -> str | None:
    """`training.learning_rate`: where a recipe of this class has the field `name`; None where it has none."""
    found = ((home, section) for home, section in _sections(recipe, {}) if name in section.model_fields)
    return next((f"{home}.{name}" if home else name for home, _ in found), None)


def _relative_with(name: str, here: type[Section] | None) -> str | None:
    """A class of the same base as the section's that has the field: another config of TRL's or adapter of peft's."""
    if here is None or not issubclass(here, UpstreamSection) or not here.upstream_name:
        return None
    classes = snapshot()["classes"]
    base = classes[here.upstream_name].get("base", here.upstream_name)
    others = (other for other, cls in classes.items() if cls.get("base") == base and name in cls["fields"])
    first = next(others, None)
    return None if first is None else f"{first} has it, {here.upstream_name} has not"


def _ratio(found: tuple[float, str | None, str]) -> float:
    return found[0]


def _sections(recipe: type[Recipe], data: Any) -> Iterator[tuple[str, type[Section]]]:
    """The sections in which a misplaced key may belong: ("training", its class), …; "" is the top."""
    yield "", recipe
    for name in recipe.model_fields:
        section = section_at(recipe, (name,), data)
        if section is not None and section is not EvaluationTask:
            yield name, section


def _home_of(here: type[Section] | None, recipe: type[Recipe], data: Any) -> str:
    """`training.` for the training section: the start of a path that need not be said there."""
    home = next((home for home, section in _sections(recipe, data) if section is here), "")
    return f"{home}." if home else ""


def _known(word: str, recipe: type[Recipe], data: Any) -> bool:
    """Whether this method's recipe has the field that an alias stands for: not every method packs."""
    parts = word.split(" ")[0].split(":")[0].split(".")
    section = section_at(recipe, tuple(parts[:-1]), data)
    return section is not None and parts[-1] in section.model_fields
