"""BLEU (Papineni et al., 2002) through sacrebleu (Post, 2018): 0 to 100, with sacrebleu's signature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.metrics import sacre
from alignkit.metrics.measurement import Measurement, divide
from alignkit.metrics.names import did_you_mean
from alignkit.metrics.parallel import Progress

ORDER = 4
TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200", "char", "none")


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Corpus BLEU with exponential smoothing, sacrebleu's default.

    Raises UserError for a tokenizer that is unknown or not installed.
    """
    if tokenize not in TOKENIZERS:
        hint = did_you_mean(tokenize, TOKENIZERS) or f"there are {', '.join(TOKENIZERS)}"
        raise UserError(Problem(f"unknown tokenizer {tokenize!r}", field="tokenize", hint=hint))
    return sacre.measure(
        "bleu",
        "BLEU",
        {"tokenize": tokenize, "lowercase": lowercase},
        formula,
        predictions,
        references,
        item_formula=partial(formula, effective_order=True),
        progress=progress,
    )


def formula(sums: np.ndarray, effective_order: bool = False) -> np.ndarray:
    """BLEU from sums of (prediction length, reference length, matches 1-4, n-grams 1-4), shape (..., 10) to (...).

    Papineni et al. 2002, section 2.3; an order without a match counts as half, a quarter, … of one match (Chen and
    Cherry 2014, smoothing 3). Sentences take only the orders that they have n-grams of (`effective_order`).
    """
    length, reference_length = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    has_ngrams = total > 0
    halvings = np.cumsum((correct == 0) & has_ngrams, axis=-1)
    precision = divide(np.where(correct > 0, correct, 0.5**halvings), total)
    logs = np.log(np.where(has_ngrams, precision, 1.0)).sum(axis=-1)
    if effective_order:
        geometric = np.exp(divide(logs, has_ngrams.sum(axis=-1)))
    else:
        geometric = np.exp(logs / ORDER) * has_ngrams.all(axis=-1)
    brevity = np.exp(np.minimum(0.0, 1 - divide(reference_length, length)))
    return 100 * brevity * geometric * correct.any(axis=-1)
