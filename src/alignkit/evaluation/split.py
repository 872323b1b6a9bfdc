"""The eval split as examples: what was held out of training, before it became tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alignkit.data.sources import open_sources
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example

if TYPE_CHECKING:
    from alignkit.data import Prepared
    from alignkit.recipe import Recipe

EvalSplit = Callable[[Sequence[str]], list[Example]]
"""Shapes (the best first) -> a split's examples of these shapes."""


def eval_split(recipe: Recipe, prepared: Prepared | None) -> EvalSplit | None:
    """How to get the recipe's eval split; None where it has none."""
    if recipe.data is None or (recipe.data.eval is None and recipe.data.eval_fraction is None):
        return None
    if recipe.data.eval is not None:
        return lambda shapes: _read(recipe, "eval", shapes)
    if prepared is None or prepared.eval is None:
        return None
    held = _ids(prepared)
    return lambda shapes: _held_out(recipe, shapes, held)


def train_split(recipe: Recipe, prepared: Prepared | None) -> EvalSplit | None:
    """How to get the examples that training learns from; None where it has none, or which they are is not known."""
    if recipe.data is None or recipe.data.streaming:
        return None
    if recipe.data.eval_fraction is None:
        return lambda shapes: _read(recipe, "train", shapes)
    if prepared is None or prepared.eval is None:
        return None
    held = _ids(prepared)
    return lambda shapes: [example for example in _read(recipe, "train", shapes) if example.id not in held]


def _read(recipe: Recipe, part: str, shapes: Sequence[str]) -> list[Example]:
    return [
        item
        for source in open_sources(recipe, part)
        for item in source.read(tuple(shapes))[1]
        if not isinstance(item, Dropped)
    ]


def _ids(prepared: Prepared) -> Counter[str]:
    assert prepared.eval is not None
    held: Counter[str] = Counter()
    for value in prepared.eval["example_id"]:
        held.update([value] if isinstance(value, str) else value)
    return held


def _held_out(recipe: Recipe, shapes: Sequence[str], held: Counter[str]) -> list[Example]:
    """The training sources' examples whose ids were held out."""
    found = [example for example in _read(recipe, "train", shapes) if example.id in held]
    count = Counter(example.id for example in found)
    twice = next((name for name in count if count[name] > held[name]), None)
    if twice is not None:
        message = f"two sources have an example {twice}, one held out and one trained on: they can't be told apart"
        raise UserError(recipe.problem("data.eval_fraction", message, "rename a file, or name data.eval"))
    return found
