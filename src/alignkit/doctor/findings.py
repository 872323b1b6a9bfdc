"""What a diagnosis is made of, and small sums over logged quantities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from alignkit.report.curves import Series
from alignkit.report.data import ReportData

Tone = Literal["bad", "warn", "note"]
FEW = 5
"""Logged values below which nothing is said of a trend."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd: what it is, with its figures, and what to try."""

    kind: str
    tone: Tone
    what: str
    advice: str = ""


@dataclass(frozen=True)
class Case:
    """A run folder, read once."""

    data: ReportData
    log: str  # the end of log.txt
    state: str  # as `Run.state`

    @property
    def session(self) -> str:
        """The log since the run was last started."""
        return re.split(r"INFO alignkit: loading the libraries", self.log)[-1]

    def curve(self, *names: str) -> Series | None:
        """The first of these quantities that was logged with a finite number."""
        found = (self.data.curves.get(name) for name in names)
        return next((series for series in found if series is not None and series.finite), None)

    def training(self, name: str) -> float | None:
        """A number of the recipe's `training:`."""
        value = self.data.recipe_at("training", name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def method(self) -> str:
        return str(self.data.manifest_at("method") or self.data.recipe_at("method") or "")

    @property
    def online(self) -> bool:
        """Whether the model learns from its own completions: its loss tells nothing then."""
        return "reward" in self.data.curves and self.method not in ("dpo", "kto", "reward")


def ends(series: Series) -> tuple[float, float] | None:
    """The medians of the first and of the last fifth (three values at least); None for too few."""
    values = [value for _, value in series.finite]
    if len(values) < 2 * FEW:
        return None
    size = max(3, len(values) // 5)
    return median(values[:size]), median(values[-size:])


def noise(series: Series) -> float:
    """How much a value differs from the one before it, as a rule: the median, over all."""
    values = [value for _, value in series.finite]
    return median(abs(b - a) for a, b in pairwise(values)) if len(values) > 1 else 0.0


def lowest(series: Series) -> tuple[float, float]:
    """(step, value) of the lowest running median of five."""
    pairs = series.finite
    windows = [pairs[place : place + FEW] for place in range(max(1, len(pairs) - FEW + 1))]
    best = min(windows, key=lambda window: median(value for _, value in window))
    return best[len(best) // 2][0], median(value for _, value in best)


def steps_of(pairs: Sequence[tuple[float, float]], most: int = 3) -> str:
    """`steps 3, 7 and 12`, at most `most` of them named."""
    named = [f"{step:.0f}" for step, _ in pairs[:most]]
    more = f" and {len(pairs) - most} more" if len(pairs) > most else ""
    return f"step{'s' if len(pairs) > 1 else ''} {', '.join(named)}{more}"
