"""How sure a number is: bootstrap intervals, paired tests, and corrections for testing many times.

Everything is seeded and vectorised: a resample is a row of weights that multiplies the items' additive statistics.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alignkit.metrics import Measurement

RESAMPLES = 2000
SEED = 12345
CONFIDENCE = 0.95
BLOCK = 4_000_000  # weights held at once, about 32 MB
Method = Literal["auto", "percentile", "bca", "wilson", "jackknife", "none"]


def normal_quantile(p: float) -> float:
    """The inverse of the standard normal distribution function."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def normal_cdf(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def cluster_numbers(clusters: Sequence[Hashable]) -> np.ndarray:
    """Cluster names, one an item, as 0 … clusters-1 in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in clusters])


def draw_weights(items: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of (resamples, items): how often each item is drawn when as many are drawn with replacement."""
    at_once = max(1, min(resamples, BLOCK // max(items, 1)))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, items, size=(rows, items), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * np.int32(items)
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(float)


def bootstrap(
    measurements: Sequence[Measurement],
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> np.ndarray:
    """Values of the measurements under the same resamples of their common items, shape (measurements, resamples)."""
    rng = np.random.default_rng(seed)
    items = measurements[0].n
    assert all(measurement.n == items for measurement in measurements), "paired measurements have the same items"
    places = None if clusters is None else cluster_numbers(clusters)
    units = items if places is None else int(places.max()) + 1
    blocks = []
    for weights in draw_weights(units, resamples, rng):
        spread = weights if places is None else weights[:, places]
        blocks.append(np.stack([measurement.resampled(spread) for measurement in measurements]))
    return np.concatenate(blocks, axis=1)


def interval(
    measurement: Measurement,
    *,
    clusters: Sequence[Hashable] | None = None,
    method: Method = "auto",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """A confidence interval for the measurement's value.

    `auto` takes Wilson's interval for a share of independent right-or-wrong items, where the bootstrap is too narrow
    near 0 and 1; the jackknife for counts of distinct things; and the BCa bootstrap for everything else, which falls
    back to the percentile bootstrap where no jackknife is at hand. `clusters` names each item's document (or other
    group): then whole documents are resampled.
    """
    return intervals(
        [measurement], clusters=clusters, method=method, confidence=confidence, resamples=resamples, seed=seed
    )[0]


def intervals(
    measurements: Sequence[Measurement],
    *,
    clusters: Sequence[Hashable] | None = None,
    method: Method = "auto",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[tuple[float, float]]:
    """As `interval`, for several measurements of the same items: the resamples are drawn once."""
    methods = [_choose(measurement, clusters, method) for measurement in measurements]
    booted = [m for m, chosen in zip(measurements, methods, strict=True) if chosen in ("bca", "percentile")]
    rows = iter(bootstrap(booted, clusters=clusters, resamples=resamples, seed=seed) if booted else ())
    found = []
    for measurement, chosen in zip(measurements, methods, strict=True):
        if chosen == "none":
            found.append((measurement.value, measurement.value))
        elif chosen == "wilson":
            found.append(wilson(measurement.statistics[:, 0].sum(), measurement.n, confidence))
        elif chosen == "jackknife":
            found.append(_jackknife_interval(measurement, confidence))
        elif chosen == "percentile":
            found.append(percentile_interval(next(rows), confidence))
        else:
            whole = measurement if clusters is None else measurement.by_cluster(cluster_numbers(clusters))
            without = whole.jackknife()
            assert without is not None
            found.append(bca_interval(next(rows), measurement.value, without, confidence))
    # Resampling pushes some scores up (calibration error above all); an interval still holds the value it is about.
    return [(min(low, m.value), max(high, m.value)) for (low, high), m in zip(found, measurements, strict=True)]


def _choose(measurement: Measurement, clusters: Sequence[Hashable] | None, method: Method) -> Method:
    if measurement.n == 1:
        return "none"
    if not measurement.can_resample:
        return "jackknife"
    if method == "auto":
        method = "wilson" if measurement.is_proportion and clusters is None else "bca"
    if method == "bca" and type(measurement) is not Measurement:
        return "percentile"
    return method


def percentile_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The middle `confidence` of the bootstrap values (Efron and Tibshirani 1993, eq. 13.5)."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(
    values: np.ndarray, observed: float, without: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles (Efron 1987; Efron and Tibshirani 1993, eq. 14.9 to 14.15).

    `values` are the bootstrap's, `without` the jackknife's.
    """
    below = float(np.mean(values < observed) + np.mean(values == observed) / 2)
    if not 0 < below < 1:
        return percentile_interval(values, confidence)
    bias = normal_quantile(below)
    gap = without.mean() - without
    scale = float((gap**2).sum()) ** 1.5
    acceleration = float((gap**3).sum()) / (6 * scale) if scale > 0 else 0.0

    def level(p: float) -> float:
        z = bias + normal_quantile(p)
        return normal_cdf(bias + z / max(1 - acceleration * z, 1e-9))

    low, high = np.quantile(values, [level((1 - confidence) / 2), level((1 + confidence) / 2)])
    return float(low), float(high)


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4)."""
    z = normal_quantile((1 + confidence) / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return (max(0.0, centre - half) if successes > 0 else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def _jackknife_interval(measurement: Measurement, confidence: float) -> tuple[float, float]:
    """Value ± z · the jackknife's standard error (Efron and Tibshirani 1993, eq. 11.5), kept within 0 and 1."""
    without = measurement.jackknife()
    assert without is not None
    n = len(without)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    half = normal_quantile((1 + confidence) / 2) * error
    return max(0.0, measurement.value - half), min(1.0, measurement.value + half)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same items: `difference` is second minus first, with its interval and p-values."""

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomization: float | None  # None where the metric's statistics cannot be swapped between systems


def compare(
    first: Measurement,
    second: Measurement,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Paired bootstrap and approximate randomization of `second` against `first` over their common items.

    Raises:
        ValueError: other items or, of metrics that count by class, other classes: measure both with the same `labels`.
    """
    if first.statistics.shape != second.statistics.shape:
        shapes = f"{first.statistics.shape} and {second.statistics.shape}"
        raise ValueError(
            f"the two count other items or classes {shapes}: measure both with the same items and `labels`"
        )
    values = bootstrap([first, second], clusters=clusters, resamples=resamples, seed=seed)
    differences = values[1] - values[0]
    observed = second.value - first.value
    low, high = percentile_interval(differences, confidence)
    swappable = type(first) is Measurement and type(second) is Measurement
    return Comparison(
        observed,
        low,
        high,
        paired_bootstrap_p(differences, observed),
        randomization_p(first, second, clusters=clusters, resamples=resamples, seed=seed) if swappable else None,
    )


def paired_bootstrap_p(differences: np.ndarray, observed: float) -> float:
    """Two-sided: how often the bootstrap's differences, moved to mean no difference, reach the observed one.

    Koehn 2004 with the shift of Efron and Tibshirani 1993, section 16.4, as in sacrebleu's paired test.
    """
    extremes = np.abs(differences - differences.mean())
    return (1 + int((extremes >= abs(observed)).sum())) / (1 + len(extremes))


def randomization_p(
    first: Measurement,
    second: Measurement,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """Two-sided approximate randomization (Noreen 1989; Riezler and Maxwell 2005, fig. 1).

    If the systems were alike, swapping their outputs on any item (or document) would change nothing; the p-value is the
    share of random swaps whose difference is larger than the observed one, and half of those that equal it. (Counting
    all ties, a test of right-or-wrong items would reject a true null far less often than its level: mid-p, Lancaster
    1961. For metrics on a finer scale there are no ties.)
    """
    rng = np.random.default_rng(seed + 1)
    if clusters is not None:
        places = cluster_numbers(clusters)
        first, second = first.by_cluster(places), second.by_cluster(places)
    gap = second.statistics - first.statistics
    total_first, total_second = first.statistics.sum(axis=0), second.statistics.sum(axis=0)
    moving = np.flatnonzero(np.abs(gap).sum(axis=1) > 0)  # swapping equal outputs changes nothing
    if len(moving) == 0:
        return 1.0
    blocks = []
    at_once = max(1, BLOCK // len(moving))
    for start in range(0, resamples, at_once):
        swaps = rng.integers(0, 2, size=(min(at_once, resamples - start), len(moving)), dtype=np.int8).astype(float)
        moved = swaps @ gap[moving]
        blocks.append(np.abs(second.formula(total_second - moved) - first.formula(total_first + moved)))
    observed = abs(second.value - first.value)
    if observed == 0:
        return 1.0
    extremes = np.concatenate(blocks)
    tie = np.isclose(extremes, observed, rtol=1e-9, atol=1e-12)
    return (1 + float((extremes > observed)[~tie].sum()) + tie.sum() / 2) / (1 + len(extremes))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test from the items that only one of two systems got right."""
    n = only_first + only_second
    tail = sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979): each may be held against the level for the whole family."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
