"""How varied texts are: distinct-n over all of them, and repetition within each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.metrics.match import count_empty
from alignkit.metrics.measurement import Measurement, divide, mean_of


@dataclass(frozen=True)
class DistinctMeasurement(Measurement):
    """Distinct things do not add up over resamples (an item drawn twice adds nothing), so only the jackknife is exact.

    `statistics` holds (n-grams found in no other item, n-grams); `shared` counts those found in several.
    """

    shared: int = 0

    @property
    def value(self) -> float:
        return float(self._share(self.statistics.sum(axis=0)))

    @property
    def can_resample(self) -> bool:
        return False

    def jackknife(self) -> np.ndarray:
        return self._share(self.statistics.sum(axis=0) - self.statistics)

    def _share(self, sums: np.ndarray) -> np.ndarray:
        return divide(sums[..., 0] + self.shared, sums[..., 1])


def distinct(predictions: Sequence[str], n: int) -> DistinctMeasurement:
    """distinct-n (Li et al. 2016, section 5.2): different n-grams over all n-grams, of white-space words.

    It falls as more texts are taken; compare it between equal numbers of texts.
    """
    grams = [_ngrams(prediction.split(), n) for prediction in predictions]
    spread = Counter(gram for counted in grams for gram in counted)
    own = [sum(spread[gram] == 1 for gram in counted) for counted in grams]
    statistics = np.array([own, [counted.total() for counted in grams]], dtype=float).T
    # An n-gram in two items stops being distinct only when both are left out, which a jackknife never does.
    return DistinctMeasurement(
        f"distinct{n}",
        f"n:{n}|tok:whitespace|interval:jackknife|version:alignkit-1",
        True,
        statistics,
        lambda sums: divide(sums[..., 0], sums[..., 1]),
        empty=count_empty(predictions),
        item_formula=None,
        shared=sum(count > 1 for count in spread.values()),
    )


def repetition(predictions: Sequence[str], n: int = 4) -> Measurement:
    """The share of n-grams that a text has said before, averaged over texts (seq-rep-n; Welleck et al. 2020, eq. 6)."""
    grams = [_ngrams(prediction.split(), n) for prediction in predictions]
    scores = [1 - len(counted) / counted.total() if counted else 0.0 for counted in grams]
    return mean_of(
        "repetition",
        np.array(scores),
        f"n:{n}|tok:whitespace|version:alignkit-1",
        higher_is_better=False,
        empty=count_empty(predictions),
    )


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))
