"""Axes: which ticks a range gets, how they are written, and where a value lies on them (in per cent)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from alignkit.report.numbers import MINUS


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place, in per cent of the axis from its start."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values of [low, high] to per cent of an axis, linearly or by logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None  # between ticks, where the ends were rounded to it

    def at(self, value: float) -> float:
        """Where `value` lies, in per cent."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        # Halves, so that a range near the largest float does not overflow.
        return 100 * (value / 2 - low / 2) / (high / 2 - low / 2)

    def ticks(self, wanted: int) -> list[Tick]:
        """About `wanted` round values in the range, with labels that tell them apart."""
        values = (
            _log_values(self.low, self.high, wanted)
            if self.log
            else _round_values(self.low, self.high, self.step or _step(self.low, self.high, wanted))
        )
        labels = [_log_label(value) for value in values] if self.log else tick_labels(values)
        return [Tick(round(self.at(value), 3), label) for value, label in zip(values, labels, strict=True)]


def fit(values: Sequence[float], log: bool = False, zero: bool = False, wanted: int = 4) -> Scale:
    """A scale around `values` that ends on round numbers. One value alone stands in the middle."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
        pad = max(0.04 * (high - low), 0.05)
        return Scale(10 ** (low - pad), 10 ** min(high + pad, 308), log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high / 2 - low / 2 <= 1e-9 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.5 or 1.0
        low, high = low - pad, high + pad
    step = _step(low, high, wanted)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step=step)


def wants_log(values: Sequence[float]) -> bool:
    """Whether positive values spread so widely that a linear axis would show a few of them only."""
    if len(values) < 4 or min(values) <= 0:
        return False
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return ordered[-1] / ordered[0] >= 100 and (ordered[-1] / middle >= 30)


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels for evenly spaced values: no more decimals than they need, `k` and `M` for large round ones."""
    largest = max((abs(value) for value in values), default=0.0)
    step = min((abs(b - a) for a, b in pairwise(values)), default=largest) or 1.0
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if largest >= limit and largest < 1e13:
            unit = 1e3 if suffix == "k" else limit
            return [_plain(value / unit, step / unit) + (suffix if value else "") for value in values]
    if largest >= 1e13 or (largest and largest < 1e-3):
        return [_scientific(value, largest, step) for value in values]
    return [_plain(value, step) for value in values]


def _step(low: float, high: float, wanted: int) -> float:
    raw = (high / 2 - low / 2) * 2 / max(wanted, 1)
    if not math.isfinite(raw):
        return 1e308
    power = 10.0 ** math.floor(math.log10(raw))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= raw * 0.999), 10 * power)


def _round_values(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, min(last, first + 50) + 1)]


def _log_values(low: float, high: float, wanted: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) <= wanted + 2:
            break
    every = math.ceil(len(inside) / (wanted + 2))
    return inside[::every]


def _plain(value: float, step: float) -> str:
    decimals = max(0, min(9, -math.floor(math.log10(step) + 1e-9)))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # steps of 2.5
    text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS) if float(value) else "0"


def _log_label(value: float) -> str:
    return f"{value:g}".replace("-", MINUS) if 1e-3 <= value < 1e5 else _scientific(value, value, value)


def _scientific(value: float, largest: float, step: float) -> str:
    """With the exponent of the largest value for all, so that the labels of one axis can be compared."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(largest)) + 1e-9)
    power = 10.0**exponent
    return f"{_plain(value / power, min(step / power, 1.0))}e{exponent}".replace("-", MINUS)
