"""Which of a row's columns hold the answers that are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REFERENCES = ("references", "reference", "answers", "answer", "solution", "target", "output", "response", "label")
"""Columns that hold what a prompt's answer should be, in order of preference."""


def references_of(data: Mapping[str, Any], column: str | None = None) -> list[str]:
    """The right answers: of `column`, or of the first of REFERENCES that holds some. May be empty."""
    for name in (column,) if column is not None else REFERENCES:
        value = data.get(name)
        if isinstance(value, list) and value and all(isinstance(one, str | int | float) for one in value):
            return [str(one) for one in value]
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return [str(value)]
    return []
