"""How rules on a recipe are registered and asked; `rules` and `task_rules` hold them.

A rule is left out while one of its fields is itself wrong, so that one mistake is reported once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.errors import Problem
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.source import Document, KeyPath, as_path

Finding = tuple[str, str, str | None]  # field, message, hint


@dataclass(frozen=True)
class Rule:
    reads: tuple[KeyPath, ...]
    check: Callable[[Recipe], Iterator[Finding]]


RULES: list[Rule] = []


def rule(*reads: str) -> Callable[[Callable[[Recipe], Iterator[Finding]]], Callable[[Recipe], Iterator[Finding]]]:
    """Register a rule that reads these fields."""

    def register(check: Callable[[Recipe], Iterator[Finding]]) -> Callable[[Recipe], Iterator[Finding]]:
        RULES.append(Rule(tuple(as_path(name) for name in reads), check))
        return check

    return register


def check(recipe: Recipe, document: Document, wrong: Sequence[KeyPath] = ()) -> list[Problem]:
    """The problems that the rules find, without those rules that read one of the `wrong` fields."""
    found = []
    for one in RULES:
        if any(_overlap(read, bad) for read in one.reads for bad in wrong):
            continue
        found += [document.problem(as_path(field), message, hint) for field, message, hint in one.check(recipe)]
    return found


def _overlap(read: KeyPath, bad: KeyPath) -> bool:
    """Whether one of the two paths holds the other."""
    shared = min(len(read), len(bad))
    return read[:shared] == bad[:shared]


def value(recipe: Recipe, name: str) -> Any:
    """A training field's value; None where the method's config has none."""
    return getattr(recipe.training, name, None)


def has_eval(recipe: Recipe) -> bool:
    return recipe.data is not None and (recipe.data.eval is not None or recipe.data.eval_fraction is not None)
