"""What a metric returns: numbers for each item that add up, and the formula that turns their sum into the score.

Keeping the sums rather than the score is what makes honest intervals cheap: a bootstrap of corpus BLEU reweights rows
of n-gram counts and never tokenises again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measurement:
    """One metric over a set of items.

    `statistics` has shape (items, k); `formula` maps sums of shape (..., k) to values of shape (...), and never returns
    NaN. `empty` counts the predictions that said nothing (they score zero). `is_proportion` says that every item is
    simply right or wrong (0 or 1) and the value is their mean.
    """

    name: str
    signature: str
    higher_is_better: bool
    statistics: np.ndarray
    formula: Formula
    empty: int = 0
    is_proportion: bool = False
    item_formula: Formula | None = None

    @property
    def n(self) -> int:
        """The number of items."""
        return len(self.statistics)

    @property
    def value(self) -> float:
        """The score over all items."""
        return float(self.formula(self.statistics.sum(axis=0)))

    @property
    def items(self) -> np.ndarray:
        """The score of each item by itself, shape (items,): for tables of wins and losses, not for averaging."""
        return (self.item_formula or self.formula)(self.statistics)

    @property
    def can_resample(self) -> bool:
        """Whether the value of a resample of the items means anything (not so for counts of distinct things)."""
        return True

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """Values of resamples, shape (resamples,): `weights` (resamples, items) says how often each item was drawn."""
        return self.formula(weights @ self.statistics)

    def jackknife(self) -> np.ndarray | None:
        """The value without item i, for each i, shape (items,); None where that has no closed form."""
        return self.formula(self.statistics.sum(axis=0) - self.statistics)

    def by_cluster(self, cluster_of: np.ndarray) -> Measurement:
        """The same value with whole clusters as items; `cluster_of` (items,) holds 0 … clusters-1."""
        sums = np.zeros((int(cluster_of.max()) + 1, self.statistics.shape[1]))
        np.add.at(sums, cluster_of, self.statistics)
        return replace(self, statistics=sums, is_proportion=False)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise division in which 0/0 and x/0 are 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.zeros(denominator.shape), where=denominator != 0)


def mean_formula(sums: np.ndarray) -> np.ndarray:
    """The mean of items whose statistics are (score, 1)."""
    return divide(sums[..., 0], sums[..., 1])


def mean_of(
    name: str,
    scores: np.ndarray,
    signature: str,
    *,
    higher_is_better: bool = True,
    empty: int = 0,
    right_or_wrong: bool = False,
) -> Measurement:
    """The measurement of a metric that is the mean of its items' scores, shape (items,).

    `right_or_wrong` says that a score is 0 or 1 by the metric's nature (ties of 0.5 may still occur).
    """
    scores = np.asarray(scores, dtype=float)
    statistics = np.stack([scores, np.ones_like(scores)], axis=1)
    is_proportion = right_or_wrong and bool(np.isin(scores, (0.0, 1.0)).all())
    return Measurement(name, signature, higher_is_better, statistics, mean_formula, empty, is_proportion)
