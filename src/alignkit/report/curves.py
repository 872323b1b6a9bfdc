"""Training curves: the lines of metrics.jsonl as series, grouped into the charts that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignkit.report.numbers import finite, lower_is_better

# Not curves: the axes themselves, and upstream's summary and timing lines.
NOT_CURVES = {"step", "epoch", "total_flos"}
SUMMARY = ("train_",)
TIMING = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")
DIRECTED = ("loss", "perplexity", "reward", "accurac", "f1", "bleu", "rouge", "match", "margin")
MAIN = ("loss", "reward", "learning_rate", "grad_norm", "tokens_per_second")


@dataclass(slots=True)
class Series:
    """One logged quantity by step. A value of None was logged but is not a finite number."""

    name: str
    steps: list[float] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The (step, value) pairs that are numbers."""
        return [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]

    @property
    def lost(self) -> list[float]:
        """The steps at which no finite number was logged."""
        return [step for step, value in zip(self.steps, self.values, strict=True) if value is None]

    @property
    def first(self) -> float | None:
        return next((value for value in self.values if value is not None), None)

    @property
    def last(self) -> float | None:
        return next((value for value in reversed(self.values) if value is not None), None)

    def best(self) -> tuple[float, float] | None:
        """The best (step, value), where the name says what is better."""
        pairs = self.finite
        if not pairs or not any(word in self.name for word in DIRECTED):
            return None
        choose = min if lower_is_better(self.name) else max
        return choose(pairs, key=lambda pair: pair[1])

    def put(self, step: float, value: float | None) -> None:
        """Add a value; a step that was logged before (a resumed run) takes the place of what followed it."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.steps.append(step)
        self.values.append(value)


@dataclass(frozen=True, slots=True)
class Panel:
    """The series of one chart: a training quantity and, where it is logged too, its held-out twin."""

    name: str
    series: tuple[Series, ...]


def series_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Every numeric quantity in the log, by name, in the order in which they first appear."""
    found: dict[str, Series] = {}
    for number, line in enumerate(lines):
        step = finite(line.get("step"))
        if step is None:
            step = float(number)
        for name, value in line.items():
            if name in NOT_CURVES or isinstance(value, bool) or not _numeric(value):
                continue
            found.setdefault(name, Series(name)).put(step, finite(value))
    return {name: series for name, series in found.items() if series.finite or series.lost}


def is_curve(name: str) -> bool:
    """Whether a quantity is worth a chart: not upstream's end-of-run summary or its timing of evaluations."""
    return not name.startswith(SUMMARY) and not name.endswith(TIMING)


def main_panels(series: Mapping[str, Series]) -> list[Panel]:
    """The charts every reader looks at first: loss with eval_loss, reward, learning rate, gradient norm, speed."""
    names = [name for name in MAIN if name in series or f"eval_{name}" in series]
    return [_panel(name, series) for name in names]


def other_panels(series: Mapping[str, Series]) -> dict[str, list[Panel]]:
    """All other quantities, grouped by what stands before the slash (`rewards/…`), the ungrouped first."""
    groups: dict[str, list[Panel]] = {}
    for name in series:
        base = name.removeprefix("eval_")
        twin = base != name and base in series
        if twin or base in MAIN or not is_curve(name):
            continue
        group = name.rsplit("/", 1)[0] if "/" in name else "eval" if name.startswith("eval_") else ""
        groups.setdefault(group, []).append(_panel(name, series))
    return dict(sorted(groups.items()))


def _panel(name: str, series: Mapping[str, Series]) -> Panel:
    twins = [series[key] for key in (name, f"eval_{name}") if key in series]
    return Panel(name, tuple(twins))


def _numeric(value: Any) -> bool:
    """Numbers, and what stands for those that are not finite: null in metrics.jsonl, a word where trackers write it."""
    if value is None or isinstance(value, int | float):
        return True
    return isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
