"""What the tests of layouts share: rows in, examples, reasons or the refusal out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.examples import Dropped, Example, Row, examples_of
from alignkit.recipe.sections import Source

SFT = ("language_modeling", "prompt_completion")
U, A = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})
A2 = {"role": "assistant", "content": "go away"}


def convert(
    data: dict[str, Any] | list[dict[str, Any]], shapes: tuple[str, ...], **fields: Any
) -> list[Example | Dropped]:
    rows = [Row("a.jsonl", n, n, row) for n, row in enumerate(data if isinstance(data, list) else [data], 1)]
    return list(examples_of(Source(path="x/y", **fields), Path(), shapes, rows))


def one(data: dict[str, Any], *shapes: str, **fields: Any) -> dict[str, Any]:
    (example,) = convert(data, shapes, **fields)
    assert isinstance(example, Example), example
    return example.data


def reasons(data: dict[str, Any], *shapes: str) -> list[str]:
    return [item.reason if isinstance(item, Dropped) else "kept" for item in convert(data, shapes)]


def refused(data: dict[str, Any] | list[dict[str, Any]], *shapes: str, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        convert(data, shapes, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)
