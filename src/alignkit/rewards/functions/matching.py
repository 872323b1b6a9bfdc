"""Rewards for an answer that is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from alignkit.metrics import match


def exact_match(
    completion: str,
    references: Sequence[str],
    *,
    answer: str | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_articles: bool = False,
) -> float:
    """1 if the completion (or the `answer` in it: last_number, boxed, `after:####`, …) is one of the references."""
    found = match.exact_match(
        [completion],
        [references],
        answer=answer,
        ignore_case=ignore_case,
        ignore_punctuation=ignore_punctuation,
        ignore_articles=ignore_articles,
    )
    return float(found.items[0])


def numeric(
    completion: str, references: Sequence[str], *, answer: str = "last_number", tolerance: float = 0.0
) -> float:
    """1 if the completion's number has a reference's value, up to a relative `tolerance`."""
    return float(match.numeric_match([completion], [references], answer=answer, tolerance=tolerance).items[0])


def math_answer(completion: str, references: Sequence[str], *, precision: int = 6) -> float | None:
    """1 if the completion's mathematical answer equals a reference's, by math-verify; None if no reference parses."""
    from math_verify import parse, verify

    golds = [parse(_as_math(reference), parsing_timeout=None) for reference in references]
    if not any(golds):
        return None
    # Its own time limits use signal.alarm, which works in the main thread only; the process has ours.
    said = parse(completion, parsing_timeout=None)
    return float(any(gold and verify(gold, said, float_rounding=precision, timeout_seconds=None) for gold in golds))


def _as_math(reference: str) -> str:
    """A bare LaTeX or number is told apart from a worked solution by its marks."""
    return reference if any(mark in reference for mark in ("$", "\\boxed", "\\(")) else f"${reference}$"


@lru_cache(maxsize=64)
def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    return re.compile(pattern, flags)


def regex(completion: str, *, pattern: str, full: bool = False, ignore_case: bool = False) -> float:
    """1 if `pattern` is found in the completion, or with `full` matches all of it. A dot matches line ends too."""
    compiled = _compiled(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    return float(bool(compiled.fullmatch(completion) if full else compiled.search(completion)))


def json_schema(completion: str, *, schema: dict[str, Any] | None = None, fenced: bool = True) -> float:
    """1 if the completion is JSON that `schema` allows; with `fenced`, also as the only code block in a text."""
    import json

    import jsonschema

    try:
        value = json.loads(_unfenced(completion) if fenced else completion)
    except ValueError:
        return 0.0
    if schema is None:
        return 1.0
    return float(jsonschema.validators.validator_for(schema)(schema).is_valid(value))


def _unfenced(text: str) -> str:
    blocks = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    return blocks[0] if len(blocks) == 1 else text
