"""Preferences: how often a reward model agrees with people, and how often a judge prefers the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.metrics.measurement import Measurement, mean_of

RIDGE = 0.01  # keeps the fit finite when one side wins every comparison
STEPS = 30


def preference_accuracy(chosen: Sequence[float] | np.ndarray, rejected: Sequence[float] | np.ndarray) -> Measurement:
    """The share of pairs in which the chosen answer has the higher reward; a tie counts half."""
    margin = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    return mean_of(
        "preference_accuracy", (np.sign(margin) + 1) / 2, "ties:half|version:alignkit-1", right_or_wrong=True
    )


def win_rate(preferences: Sequence[float]) -> Measurement:
    """The mean preference of a judge: 1 the model wins, 0 the baseline wins, 0.5 a tie (or any share between)."""
    return mean_of(
        "win_rate", np.asarray(preferences, dtype=float), "ties:half|version:alignkit-1", right_or_wrong=True
    )


@dataclass(frozen=True)
class LengthControlled(Measurement):
    """A logistic regression, fitted anew for each resample. `statistics` holds (preference, length term)."""

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        return _fit(weights, self.statistics[:, 0], self.statistics[:, 1])

    @property
    def value(self) -> float:
        return float(self.resampled(np.ones((1, self.n)))[0])

    @property
    def items(self) -> np.ndarray:
        return self.statistics[:, 0]

    def jackknife(self) -> None:
        return None

    def by_cluster(self, cluster_of: np.ndarray) -> Measurement:
        raise NotImplementedError("statistics.py spreads the weights of clusters over the items instead")


def length_controlled_win_rate(
    preferences: Sequence[float], lengths: Sequence[int], baseline_lengths: Sequence[int]
) -> LengthControlled:
    """The win rate that the judge would give if both answers were equally long.

    Dubois et al. 2024 ("Length-Controlled AlpacaEval"), eq. 2 without the instruction's difficulty, which needs many
    models to estimate: P(win) = σ(θ + φ · tanh(Δ/std(Δ))) with Δ the difference in length; the score is σ(θ).
    """
    difference = np.asarray(lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    spread = difference.std()
    term = np.tanh(difference / spread) if spread > 0 else np.sign(difference)
    statistics = np.stack([np.asarray(preferences, dtype=float), term], axis=1)
    signature = f"model:logistic|length:tanh|ridge:{RIDGE:g}|version:alignkit-1"
    return LengthControlled("length_controlled_win_rate", signature, True, statistics, lambda sums: sums[..., 0])


def _fit(weights: np.ndarray, preferred: np.ndarray, term: np.ndarray) -> np.ndarray:
    """σ(θ) for each row of weights: Newton's method on two parameters, for all rows at once."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(theta[:, None] + phi[:, None] * term, -30, 30)))
        error = weights * (preferred - p)
        curve = weights * p * (1 - p)
        g0, g1 = error.sum(axis=1) - RIDGE * theta, (error * term).sum(axis=1) - RIDGE * phi
        h00, h01 = curve.sum(axis=1) + RIDGE, (curve * term).sum(axis=1)
        h11 = (curve * term**2).sum(axis=1) + RIDGE
        determinant = h00 * h11 - h01**2
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        theta, phi = theta + np.clip(step0, -2, 2), phi + np.clip(step1, -2, 2)
        if np.abs(step0).max() < 1e-9 and np.abs(step1).max() < 1e-9:
            break
    return 1 / (1 + np.exp(-theta))
