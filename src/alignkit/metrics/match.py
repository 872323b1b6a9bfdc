"""Exact match, numeric match and SQuAD's token F1: each prediction is compared with each of its references."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from alignkit.metrics.answers import extractor, last_number, to_number
from alignkit.metrics.measurement import Measurement, mean_of

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.ASCII)


def normalize(
    text: str, *, ignore_case: bool = False, ignore_punctuation: bool = False, ignore_articles: bool = False
) -> str:
    """Outer white space goes and inner runs become one space, always; the rest only where asked for."""
    if ignore_case:
        text = text.lower()
    if ignore_punctuation:
        text = text.translate(_PUNCTUATION)
    if ignore_articles:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def squad_normalize(text: str) -> str:
    """The normalisation of SQuAD's official script: case, ASCII punctuation and English articles are ignored."""
    return normalize(text, ignore_case=True, ignore_punctuation=True, ignore_articles=True)


def exact_match(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    answer: str | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_articles: bool = False,
) -> Measurement:
    """The share of predictions equal to one of their references, after `answer` extraction (see answers.extractor).

    A reference from which nothing can be extracted is taken whole. An empty prediction is never a match.
    """
    take = extractor(answer) if answer else None

    def clean(text: str, *, is_reference: bool) -> str:
        if take is not None:
            text = take(text) or (text if is_reference else "")
        return normalize(
            text, ignore_case=ignore_case, ignore_punctuation=ignore_punctuation, ignore_articles=ignore_articles
        )

    scores = []
    for prediction, choices in zip(predictions, references, strict=True):
        said = clean(prediction, is_reference=False)
        matches = any(said == clean(choice, is_reference=True) for choice in choices)
        scores.append(matches and bool(prediction.strip()))
    ignored = "".join(
        letter for letter, given in (("c", ignore_case), ("p", ignore_punctuation), ("a", ignore_articles)) if given
    )
    signature = f"answer:{answer or 'whole'}|ignore:{ignored or 'none'}|version:alignkit-1"
    return mean_of("exact_match", np.array(scores), signature, empty=count_empty(predictions), right_or_wrong=True)


def numeric_match(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    answer: str = "last_number",
    tolerance: float = 0.0,
) -> Measurement:
    """The share of predictions whose answer has the value of a reference's: `1,000`, `$1000.00` and `1e3` are equal.

    `answer` says how the number is taken out of either (where that finds none, the last number of the reference is
    used). Comparison is exact unless a relative `tolerance` is given; a per cent sign is dropped (50% is 50).
    """
    take = extractor(answer)

    def expected(choice: str) -> Fraction | None:
        value = _value(take(choice))
        return _value(last_number(choice)) if value is None else value

    scores = [
        _same_number(_value(take(prediction)), [expected(choice) for choice in choices], tolerance)
        for prediction, choices in zip(predictions, references, strict=True)
    ]
    signature = f"answer:{answer}|tolerance:{tolerance:g}|version:alignkit-1"
    return mean_of("numeric_match", np.array(scores), signature, empty=count_empty(predictions), right_or_wrong=True)


def _value(answer: str) -> Fraction | None:
    """The answer as one number, else the last number in it ("72 clips")."""
    value = to_number(answer)
    return to_number(last_number(answer)) if value is None else value


def _same_number(said: Fraction | None, expected: Sequence[Fraction | None], tolerance: float) -> bool:
    if said is None:
        return False
    slack = Fraction(tolerance)
    return any(value is not None and abs(said - value) <= slack * abs(value) for value in expected)


def token_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Measurement:
    """SQuAD's F1 over words, the best of the references, averaged (Rajpurkar et al. 2016, section 6.1)."""
    scores = [
        max((_overlap(prediction, choice, squad_normalize) for choice in choices), default=0.0)
        for prediction, choices in zip(predictions, references, strict=True)
    ]
    return mean_of("token_f1", np.array(scores), "norm:squad|version:alignkit-1", empty=count_empty(predictions))


def _overlap(prediction: str, reference: str, clean: Callable[[str], str]) -> float:
    said, expected = clean(prediction).split(), clean(reference).split()
    common = sum((Counter(said) & Counter(expected)).values())
    return 2 * common / (len(said) + len(expected)) if common else 0.0


def count_empty(predictions: Sequence[str]) -> int:
    """How many predictions hold nothing but white space."""
    return sum(not prediction.strip() for prediction in predictions)
