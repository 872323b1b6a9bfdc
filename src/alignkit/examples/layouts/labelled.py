"""Layouts for classifiers: a text with its label or labels, tokens with their tags."""

from __future__ import annotations

from typing import Any

from alignkit.examples.layouts.base import Data, Layout
from alignkit.examples.messages import BadRow, as_list, kind_of


def _label(value: Any, column: str) -> Any:
    """A name, a number, or a list of names or numbers; never nothing."""
    if isinstance(value, list):
        return [_label(item, column) for item in value]
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN: pandas' nothing
        raise BadRow("no label", column)
    if not isinstance(value, str | int | float):
        raise BadRow(f"a label must be a name, a number or a list of them, not {kind_of(value)}", column)
    return value


def _labelled(data: Data) -> list[Data]:
    said = data.get("text")
    if said is None:
        said = ""  # an empty text has a class too
    if not isinstance(said, str):
        raise BadRow(f"must be text, not {kind_of(said)}", "text")
    return [{"text": said, "label": _label(data.get("label"), "label")}]


def _tagged(data: Data) -> list[Data]:
    words, marks = as_list(data.get("tokens"), "tokens"), as_list(data.get("tags"), "tags")
    if len(words) != len(marks):
        raise BadRow(f"{len(marks)} tags for {len(words)} tokens", "tags")
    for word in words:
        if not isinstance(word, str):
            raise BadRow(f"holds {kind_of(word)} where a token's text must be", "tokens")
    for mark in marks:
        if isinstance(mark, bool) or not isinstance(mark, str | int):
            raise BadRow(f"holds {kind_of(mark)} where a tag must be", "tags")
    return [{"tokens": words, "tags": marks}]


LAYOUTS = (
    Layout(
        "tagged",
        "labelled",
        "a list of tokens, and a tag for each",
        ("tokens", "tags"),
        _tagged,
        aliases={"tokens": ("words",), "tags": ("ner_tags", "labels", "pos_tags")},
        rank=0,
    ),
    Layout(
        "labelled",
        "labelled",
        "a text and its label: a name, a number, or a list of them",
        ("text", "label"),
        _labelled,
        aliases={
            "text": ("sentence", "content", "review"),
            "label": ("labels", "category", "class", "sentiment"),
        },
        rank=0,
    ),
)
