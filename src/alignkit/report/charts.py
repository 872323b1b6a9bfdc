"""The geometry of the report's charts.

They are small hand-written SVGs and not matplotlib figures: importing matplotlib costs seconds where the whole report
takes a fraction of one, and these follow the page's colours in light, dark and print. Only the shapes are SVG,
stretched to the width at hand with strokes that keep theirs; labels are HTML beside them, so that they stay readable
at 360 px. Coordinates are per cent of the plot, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from alignkit.report.curves import Panel, Series
from alignkit.report.numbers import general
from alignkit.report.scales import Scale, Tick, fit, wants_log

BUCKETS = 300
SMOOTH_FROM = 60  # fewer points than this are shown as they are


@dataclass(frozen=True, slots=True)
class Line:
    """One drawn series: `path` as it was logged, `smooth` its running mean where it is noisy."""

    name: str
    style: str  # "a", "b", …: a colour of the page
    held_out: bool
    path: str
    smooth: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    marker: tuple[float, float] | None = None  # the best point, in per cent


@dataclass(frozen=True, slots=True)
class LineChart:
    """Series over steps."""

    kind: ClassVar[str] = "line"
    title: str
    note: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_range: tuple[float, float]
    lost: Sequence[float]  # where a value was not finite, in per cent of x
    description: str
    label_width: int
    summary: Sequence[Series]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its share of the tallest in per cent, and what it counts."""

    label: str
    height: float
    value: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """Counts in bins."""

    kind: ClassVar[str] = "bar"
    title: str
    note: str
    bars: Sequence[Bar]
    label_every: int
    y_ticks: Sequence[Tick]
    description: str
    label_width: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its interval on an axis, all in per cent; `style` is the model's mark."""

    model: str
    style: str
    value: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """The models' scores in one metric of one task."""

    label: str
    detail: str
    intervals: Sequence[Interval]


@dataclass(frozen=True, slots=True)
class IntervalChart:
    """Scores with intervals, one row a metric, all on one axis."""

    kind: ClassVar[str] = "intervals"
    title: str
    rows: Sequence[IntervalRow]
    ticks: Sequence[Tick]
    models: Sequence[tuple[str, str]]  # name, style
    description: str


def line_chart(panel: Panel, small: bool = False) -> LineChart | None:
    """A chart of the panel's series, or None if not one value in it is a finite number."""
    points = [pair for series in panel.series for pair in series.finite]
    if not points:
        return None
    values = [value for _, value in points]
    log = panel.name != "learning_rate" and wants_log(values)
    steps = [step for series in panel.series for step in series.steps]
    low, high = min(steps), max(steps)
    start = 0.0 if 0 < low <= 0.25 * high else low
    x = Scale(start, high) if high > low else Scale(low - 1, high + 1)
    y = fit(values, log=log, zero=_from_zero(values), wanted=3 if small else 4)
    x_ticks, y_ticks = _whole_ticks(x, low, high, 4 if small else 5), y.ticks(3 if small else 4)
    buckets = BUCKETS // 2 if small else BUCKETS
    drawn = [_line(series, style, x, y, buckets) for series, style in zip(panel.series, "abcdef", strict=False)]
    lost = sorted({step for series in panel.series for step in series.lost})
    return LineChart(
        title=panel.name,
        note=_note(panel, log, any(line.smooth for line in drawn), lost),
        lines=drawn,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_range=(x.low, x.high),
        lost=[round(x.at(step), 2) for step in lost[:200]],
        description=_describe(panel),
        label_width=max(_corner_width(x_ticks), *(len(tick.label) for tick in y_ticks)),
        summary=panel.series,
    )


def bar_chart(title: str, bins: Sequence[tuple[str, float]], note: str = "") -> BarChart:
    """Bars of equal width, one a bin, from zero."""
    tallest = max((value for _, value in bins), default=0) or 1
    y = fit([0, tallest], zero=True, wanted=3)
    bars = [Bar(label, round(y.at(value), 3), f"{value:,.0f}") for label, value in bins]
    ticks = y.ticks(3)
    most = max(bins, key=lambda pair: pair[1], default=("", 0))
    return BarChart(
        title=title,
        note=note,
        bars=bars,
        label_every=max(1, math.ceil(len(bars) * max((len(bar.label) for bar in bars), default=1) / 36)),
        y_ticks=ticks,
        description=f"{title}: {len(bins)} bins, most ({most[1]:,.0f}) at {most[0]}",
        label_width=max((len(tick.label) for tick in ticks), default=1),
    )


def downsample(
    steps: Sequence[float], values: Sequence[float | None], buckets: int
) -> list[tuple[float, float | None]]:
    """At most two points a bucket, its least and greatest in order: no spike is lost. A bucket of gaps is a gap."""
    if len(steps) <= 2 * buckets:
        return list(zip(steps, values, strict=True))
    kept: list[tuple[float, float | None]] = []
    for bucket in range(buckets):
        start, end = bucket * len(steps) // buckets, (bucket + 1) * len(steps) // buckets
        pairs = [(values[i], i) for i in range(start, end) if values[i] is not None]
        if not pairs:
            kept.append((steps[start], None))
            continue
        ends = sorted({min(pairs)[1], max(pairs)[1]})
        kept += [(steps[i], values[i]) for i in ends]
    return kept


def running_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    """The mean over `window` values around each; gaps stay gaps and count for nothing."""
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    half, n = window // 2, len(values)
    means: list[float | None] = []
    for i, value in enumerate(values):
        reach = min(
            half, i, n - 1 - i
        )  # symmetric at the ends too, so that the curve starts and ends where the data do
        start, end = i - reach, i + reach + 1
        means.append(None if value is None else (sums[end] - sums[start]) / (counts[end] - counts[start]))
    return means


def noisy(values: Sequence[float]) -> bool:
    """Whether a curve goes up and down far more than it moves."""
    travelled = sum(abs(b - a) for a, b in pairwise(values))
    return travelled > 6 * (max(values) - min(values))


def _line(series: Series, style: str, x: Scale, y: Scale, buckets: int) -> Line:
    points = downsample(series.steps, series.values, buckets)
    smooth = ""
    values = [value for _, value in series.finite]
    sane = max((abs(value) for value in values), default=0) < 1e150  # sums of more would overflow
    if len(values) >= SMOOTH_FROM and sane and noisy(values):
        means = running_mean(series.values, max(5, len(values) // 30))
        every = max(1, len(means) // buckets)
        thinned = [*range(0, len(means), every), len(means) - 1]
        smooth = _path([(series.steps[i], means[i]) for i in thinned], x, y)
    best = series.best() if series.name.startswith("eval_") and len(values) > 1 else None
    return Line(
        name=series.name,
        style=style,
        held_out=series.name.startswith("eval_"),
        path=_path(points, x, y),
        smooth=smooth,
        xs=[step for step, _ in points],
        ys=[None if value is None else float(f"{value:.5g}") for _, value in points],
        marker=(round(x.at(best[0]), 2), round(100 - y.at(best[1]), 2)) if best else None,
    )


def _path(points: Sequence[tuple[float, float | None]], x: Scale, y: Scale) -> str:
    """SVG path data; a gap lifts the pen, and a point alone is a line of no length, which round caps make a dot."""
    parts: list[str] = []
    drawing = False
    for index, (step, value) in enumerate(points):
        if value is None:
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{x.at(step):.2f} {100 - y.at(value):.2f}")
        alone = not drawing and (index + 1 == len(points) or points[index + 1][1] is None)
        if alone:
            parts.append("h0")
        drawing = True
    return "".join(parts)


def _from_zero(values: Sequence[float]) -> bool:
    """Start the axis at zero when the values reach down near it anyway."""
    low, high = min(values), max(values)
    return low >= 0 and low <= 0.35 * high


def _whole_ticks(x: Scale, low: float, high: float, wanted: int) -> list[Tick]:
    """Ticks at whole steps; a run of one step has that step alone."""
    if high <= low:
        return [Tick(50.0, f"{low:,.0f}")]
    if high - low < wanted:
        return [Tick(round(x.at(step), 3), f"{step:,}") for step in range(math.ceil(low), math.floor(high) + 1)]
    return x.ticks(wanted)


def _corner_width(x_ticks: Sequence[Tick]) -> int:
    """What the word "step" left of the ticks needs, in characters, so that it never touches the first of them."""
    first = x_ticks[0] if x_ticks else None
    return 5 + (math.ceil(len(first.label) / 2) if first is not None and first.at < 6 else 0)


def _note(panel: Panel, log: bool, smoothed: bool, lost: Sequence[float]) -> str:
    notes = []
    held_out = next((series for series in panel.series if series.name.startswith("eval_")), None)
    best = held_out.best() if held_out is not None and len(held_out.finite) > 1 else None
    if best is not None and held_out is not None:
        notes.append(f"best {general(best[1])} at step {best[0]:,.0f}")
    if log:
        notes.append("log scale")
    if smoothed:
        notes.append("bold: running mean")
    if lost:
        many = "values" if len(lost) > 1 else "value"
        notes.append(f"{len(lost):,} {many} not finite, first at step {lost[0]:,.0f}")
    return "; ".join(notes)


def _describe(panel: Panel) -> str:
    """What a reader who does not see the chart is told."""
    parts = []
    for series in panel.series:
        pairs = series.finite
        if pairs:
            values = [value for _, value in pairs]
            parts.append(
                f"{series.name}: from {general(values[0])} at step {pairs[0][0]:,.0f} to {general(values[-1])} at step "
                f"{pairs[-1][0]:,.0f}, least {general(min(values))}, greatest {general(max(values))}"
            )
    return ". ".join(parts)
