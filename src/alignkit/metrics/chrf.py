"""chrF (Popović, 2015) and chrF++ (Popović, 2017) through sacrebleu: 0 to 100, with sacrebleu's signature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignkit.metrics import sacre
from alignkit.metrics.measurement import Measurement, divide
from alignkit.metrics.parallel import Progress

BETA = 2


def chrf(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    word_order: int = 0,
    lowercase: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Corpus chrF2 with character n-grams to 6; `word_order=2` makes it chrF++."""
    name = "chrf" + "+" * word_order
    options = {"word_order": word_order, "lowercase": lowercase}
    return sacre.measure(name, "CHRF", options, formula, predictions, references, progress=progress)


def formula(sums: np.ndarray) -> np.ndarray:
    """chrF from sums of (predicted, expected, matched) for each order, shape (..., 3 * orders) to (...).

    Popović 2015, equation 1, over the orders that both sides have n-grams of, as sacrebleu does by default.
    """
    predicted, expected, matched = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    both = (predicted > 0) & (expected > 0)
    orders = both.sum(axis=-1)
    precision = divide((divide(matched, predicted) * both).sum(axis=-1), orders)
    recall = divide((divide(matched, expected) * both).sum(axis=-1), orders)
    factor = BETA**2
    return 100 * divide((1 + factor) * precision * recall, factor * precision + recall)
