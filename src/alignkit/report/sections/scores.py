"""Scores with their intervals: the tuned model beside its baseline, as a table and as a plot, and by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.report import numbers
from alignkit.report.blocks import Block, Bullets, Cell, Charts, Column, Fold, Prose, Section, Table
from alignkit.report.charts import Interval, IntervalChart, IntervalRow
from alignkit.report.data import BASELINE, TUNED, ReportData, Score
from alignkit.report.scales import Scale, fit


@dataclass(frozen=True, slots=True)
class Comparison:
    """All models' scores in one metric of one task (and slice)."""

    name: str
    task: str
    metric: str
    slice: str
    by_model: dict[str, Score]

    @property
    def tuned(self) -> Score | None:
        return self._scored(TUNED)

    @property
    def baseline(self) -> Score | None:
        return self._scored(BASELINE)

    def _scored(self, model: str) -> Score | None:
        score = self.by_model.get(model)
        return score if score is not None and score.value is not None else None

    @property
    def difference(self) -> float | None:
        """Tuned less baseline; as stored where the evaluation stored it."""
        if self.tuned is not None and self.tuned.difference is not None:
            return self.tuned.difference[0]
        if self.tuned is None or self.baseline is None:
            return None
        return (self.tuned.value or 0.0) - (self.baseline.value or 0.0)

    @property
    def verdict(self) -> Cell:
        """The difference, and whether it is one: by a test's p-value, its own interval, or intervals that lie apart."""
        tuned, baseline, difference = self.tuned, self.baseline, self.difference
        if tuned is None or difference is None:
            return Cell(numbers.DASH)
        text = numbers.score(difference, self.metric, signed=True)
        sure, why = _sure(tuned, baseline)
        if not sure or difference == 0:
            return Cell(text, f"no clear difference{why}", "quiet")
        better = (difference < 0) == numbers.lower_is_better(self.metric)
        return Cell(text, ("better" if better else "worse") + why, "good" if better else "bad")


def comparisons(scores: Sequence[Score], sliced: bool = False) -> list[Comparison]:
    """Scores brought together by task, metric and slice, in the order in which they stand in the file."""
    found: dict[tuple[str, str, str], Comparison] = {}
    for score in scores:
        if bool(score.slice) == sliced:
            key = (score.name, score.metric, score.slice)
            row = found.setdefault(key, Comparison(score.name, score.task, score.metric, score.slice, {}))
            row.by_model[score.model] = score
    return list(found.values())


def scores(data: ReportData) -> Section | None:
    """The table, the plot, and what each number was computed with."""
    rows = comparisons(data.scores)
    if not rows:
        return None
    models = model_order(data.scores)
    blocks: list[Block] = [_table(rows, models)]
    charts = _interval_charts(rows, models)
    if charts:
        blocks.append(Charts(charts))
    blocks.append(Prose("Brackets and bars are 95 % intervals. " + _how_sure(rows), tone="quiet"))
    signatures = _signatures(rows)
    if signatures:
        blocks.append(Fold("How each score is computed", [Bullets(signatures)]))
    return Section("scores", "Scores", blocks)


def slices(data: ReportData) -> Section | None:
    """The same scores on parts of the data, where the recipe asks for them (`slice_by`)."""
    rows = comparisons(data.scores, sliced=True)
    if not rows:
        return None
    models = model_order([score for score in data.scores if score.slice])
    return Section("slices", "Scores by slice", [_table(rows, models, sliced=True)])


def model_order(scores: Sequence[Score]) -> list[str]:
    """The models in reading order: the simple ones, the baseline, the tuned model last, beside the difference."""
    seen = list(dict.fromkeys(score.model for score in scores))
    named = [model for model in seen if model not in (TUNED, BASELINE)]
    return named + [model for model in (BASELINE, TUNED) if model in seen]


def score_cell(score: Score | None, metric: str) -> Cell:
    """A score with its interval under it."""
    if score is None or score.value is None:
        return Cell(numbers.DASH, tone="quiet")
    if score.low is None or score.high is None:
        return Cell(numbers.score(score.value, metric))
    low, high = numbers.score(score.low, metric), numbers.score(score.high, metric)
    return Cell(numbers.score(score.value, metric), f"[{low}, {high}]")


def _table(rows: Sequence[Comparison], models: Sequence[str], sliced: bool = False) -> Table:
    compared = any(row.difference is not None for row in rows)
    columns = [Column("Task"), *([Column("Slice")] if sliced else []), Column("Metric"), Column("Items", numeric=True)]
    columns += [Column(model.replace("_", " ").capitalize(), numeric=True) for model in models]
    columns += [Column("Difference", numeric=True)] if compared else []
    body = []
    for row in rows:
        items = max((score.n or 0 for score in row.by_model.values()), default=0)
        arrow = "lower is better" if numbers.lower_is_better(row.metric) else ""
        cells = [Cell(row.name), *([Cell(row.slice)] if sliced else []), Cell(row.metric, arrow)]
        cells.append(Cell(numbers.count(items) if items else numbers.DASH))
        cells += [score_cell(row.by_model.get(model), row.metric) for model in models]
        cells += [row.verdict] if compared else []
        body.append(cells)
    return Table(columns, body, stack=True)


def _sure(tuned: Score, baseline: Score | None) -> tuple[bool, str]:
    """Whether the difference is more than chance explains, and the words that say by what."""
    if tuned.p_value is not None:
        return tuned.p_value < 0.05, f", {numbers.p_value(tuned.p_value)}"
    if tuned.difference is not None and tuned.difference[1] is not None and tuned.difference[2] is not None:
        return tuned.difference[1] > 0 or tuned.difference[2] < 0, ""
    if baseline is None or None in (tuned.low, tuned.high, baseline.low, baseline.high):
        return False, ", no interval"
    apart = (tuned.low or 0) > (baseline.high or 0) or (tuned.high or 0) < (baseline.low or 0)
    return apart, ", intervals apart" if apart else ", intervals overlap"


def _how_sure(rows: Sequence[Comparison]) -> str:
    compared = [row.tuned for row in rows if row.tuned is not None and row.difference is not None]
    tested = [score.p_value is not None for score in compared]
    apart = "the two intervals lie apart, which is stricter than a paired test"
    if not compared:
        return ""
    if all(tested):
        return "A difference counts as one when p < 0.05 in a paired test on the same items."
    if any(tested):
        return f"A difference counts as one when p < 0.05 in a paired test; where none was made, when {apart}."
    return f"A difference counts as one when {apart}."


def _signatures(rows: Sequence[Comparison]) -> list[str]:
    texts: dict[str, None] = {}
    for row in rows:
        for score in row.by_model.values():
            if score.signature:
                texts[f"{row.metric}: {score.signature}"] = None
    return list(texts)


def _interval_charts(rows: Sequence[Comparison], models: Sequence[str]) -> list[IntervalChart]:
    """One chart a unit: shares together on one axis, BLEU and its kin on another, every other metric on its own."""
    groups: dict[str, list[Comparison]] = {}
    for row in rows:
        values = [v for score in row.by_model.values() for v in (score.value, score.low, score.high) if v is not None]
        if values:
            groups.setdefault(numbers.unit(row.metric, values), []).append(row)
    return [_interval_chart(unit, members, models) for unit, members in groups.items()]


def _interval_chart(unit: str, rows: Sequence[Comparison], models: Sequence[str]) -> IntervalChart:
    scale = _axis(
        unit, [v for r in rows for s in r.by_model.values() for v in (s.value, s.low, s.high) if v is not None]
    )
    styles = {model: f"m{min(index, 4)}" for index, model in enumerate(reversed(models))}  # m0: tuned
    if TUNED not in styles:
        styles = {model: f"m{min(index + 1, 4)}" for index, model in enumerate(reversed(models))}
    drawn = []
    for row in rows:
        marks = [
            _interval(row.by_model[m], styles[m], scale)
            for m in models
            if row.by_model.get(m) is not None and row.by_model[m].value is not None
        ]
        drawn.append(IntervalRow(row.metric, row.name, marks))
    title = {"share": "Shares, 0 to 1", "hundred": "Scores, 0 to 100"}.get(unit, unit)
    said = [f"{row.label} on {row.detail}: " + ", ".join(f"{i.model} {i.text}" for i in row.intervals) for row in drawn]
    used = {interval.model for row in drawn for interval in row.intervals}
    shown = [(model, styles[model]) for model in models if model in used]
    return IntervalChart(title, drawn, scale.ticks(4), shown, "; ".join(said))


def _interval(score: Score, style: str, scale: Scale) -> Interval:
    value = score.value or 0.0
    whole = score.low is not None and score.high is not None
    cell = score_cell(score, score.metric)
    return Interval(
        model=score.model,
        style=style,
        value=round(scale.at(value), 2),
        low=round(scale.at(score.low or 0.0), 2) if whole else None,
        high=round(scale.at(score.high or 0.0), 2) if whole else None,
        text=f"{cell.text} {cell.detail}".strip(),
    )


def _axis(unit: str, values: Sequence[float]) -> Scale:
    """The whole range of a share where the scores fill much of it, else a closer look at where they lie."""
    top = {"share": 1.0, "hundred": 100.0}.get(unit)
    if top is None:
        return fit(values)
    low, high = min(values), max(values)
    if high - low > 0.3 * top:
        return Scale(0.0, max(top, high))
    close = fit(values)
    return Scale(max(0.0, close.low) if low >= 0 else close.low, min(top, close.high) if high <= top else close.high)
