"""Numeric targets: errors, explained variance and correlation, from sums that add up over items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignkit.metrics.measurement import Measurement, divide, mean_of

VERSION = "version:alignkit-1"


def numeric_measurements(predictions: Sequence[float], references: Sequence[float]) -> list[Measurement]:
    """Mean absolute error, root mean squared error, R² and Pearson's correlation, equal to scikit-learn's and scipy's.

    Both sides have shape (items,). Where the references do not vary, R² and the correlation are 0.
    """
    said, expected = np.asarray(predictions, dtype=float), np.asarray(references, dtype=float)
    # About the references' mean, so that sums of squares of large numbers lose no digits.
    centre = expected.mean() if len(expected) else 0.0
    x, y = said - centre, expected - centre
    statistics = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, (x - y) ** 2], axis=1)
    return [
        mean_of("mean_absolute_error", np.abs(x - y), VERSION, higher_is_better=False),
        Measurement("root_mean_squared_error", VERSION, False, statistics, _rmse),
        Measurement("r2", VERSION, True, statistics, _r2, item_formula=_closeness),
        Measurement("pearson_correlation", VERSION, True, statistics, _pearson, item_formula=_closeness),
    ]


def measure_one(name: str, predictions: Sequence[float], references: Sequence[float]) -> Measurement:
    """One of them by its name."""
    return next(one for one in numeric_measurements(predictions, references) if one.name == name)


def _rmse(sums: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(divide(sums[..., 6], sums[..., 0]), 0))


def _r2(sums: np.ndarray) -> np.ndarray:
    n, y, yy, error = sums[..., 0], sums[..., 2], sums[..., 4], sums[..., 6]
    spread = yy - divide(y * y, n)
    return np.where(spread > 1e-12, 1 - divide(error, np.maximum(spread, 1e-12)), 0.0)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    covariance = xy - divide(x * y, n)
    spread = np.maximum(xx - divide(x * x, n), 0) * np.maximum(yy - divide(y * y, n), 0)
    return divide(covariance, np.sqrt(spread))


def _closeness(statistics: np.ndarray) -> np.ndarray:
    """An item alone: the nearer, the better."""
    return -statistics[..., 6]
