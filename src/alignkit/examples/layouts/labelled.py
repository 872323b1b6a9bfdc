"""Layouts for classifiers: a text with its label or labels, tokens with their tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignkit.examples.layouts.base import Data, Layout
from alignkit.examples.messages import BadRow, as_list, kind_of

TEXTS = ("text", "sentence", "content", "review")
LABELS = ("label", "labels", "category", "class", "sentiment")
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "pos_tags")


def _label(value: Any, column: str) -> Any:
    """A name, a number, or a list of names or numbers; never nothing."""
    if isinstance(value, list):
        return [_label(item, column) for item in value]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow("no label", column)
    if not isinstance(value, str | int | float):
        raise BadRow(f"a label must be a name, a number or a list of them, not {kind_of(value)}", column)
    return value


def _labelled(text: str, label: str) -> Callable[[Data], list[Data]]:
    def build(data: Data) -> list[Data]:
        said = data.get(text)
        if said is None:
            said = ""  # an empty text has a class too
        if not isinstance(said, str):
            raise BadRow(f"must be text, not {kind_of(said)}", text)
        return [{"text": said, "label": _label(data.get(label), label)}]

    return build


def _tagged(tokens: str, tags: str) -> Callable[[Data], list[Data]]:
    def build(data: Data) -> list[Data]:
        words, marks = as_list(data.get(tokens), tokens), as_list(data.get(tags), tags)
        if len(words) != len(marks):
            raise BadRow(f"{len(marks)} tags for {len(words)} tokens", tags)
        for word in words:
            if not isinstance(word, str):
                raise BadRow(f"holds {kind_of(word)} where a token's text must be", tokens)
        for mark in marks:
            if isinstance(mark, bool) or not isinstance(mark, str | int):
                raise BadRow(f"holds {kind_of(mark)} where a tag must be", tags)
        return [{"tokens": words, "tags": marks}]

    return build


LAYOUTS = (
    *(
        Layout(
            "labelled" if (text, label) == ("text", "label") else f"{text}_{label}",
            "labelled",
            f"a text and its {'labels' if label == 'labels' else 'label'}: a name, a number, or a list of them",
            (text, label),
            _labelled(text, label),
            rank=0 if (text, label) == ("text", "label") else 1,
        )
        for text in TEXTS
        for label in LABELS
    ),
    *(
        Layout(
            "tagged" if (tokens, tags) == ("tokens", "tags") else f"{tokens}_{tags}",
            "labelled",
            "a list of tokens, and a tag for each",
            (tokens, tags),
            _tagged(tokens, tags),
            rank=0 if (tokens, tags) == ("tokens", "tags") else 1,
        )
        for tokens in TOKENS
        for tags in TAGS
    ),
)
