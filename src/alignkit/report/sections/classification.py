"""Classifiers: against simple models, by class, the confusion matrix, how far confidence can be believed, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.report import numbers
from alignkit.report.blocks import Block, Cell, Charts, Column, Fold, Prose, Section, Table, Tone
from alignkit.report.charts import Interval, IntervalChart, IntervalRow
from alignkit.report.data import TUNED, ReportData, Score, dig, listed
from alignkit.report.scales import Scale

SURE = 0.05


def classification(data: ReportData) -> Section | None:
    """What a classification task knows beside its scores; of the tuned model where there is one."""
    found = {str(one.get("name")): one for one in _details(data) if one.get("model") == TUNED}
    for one in _details(data):
        found.setdefault(str(one.get("name")), one)
    blocks: list[Block] = []
    for name, details in found.items():
        if len(found) > 1:
            blocks.append(Prose(f"Task {name}"))
        blocks += _of_task(data, name, details)
    return Section("classification", "Right and wrong answers", blocks) if blocks else None


def _details(data: ReportData) -> list[dict[str, Any]]:
    return [one for one in data.details if isinstance(one.get("kind"), str) and "mistakes" in one]


def _of_task(data: ReportData, name: str, details: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if compared := _against_simple(data.scores, name):
        text = "The tuned model less each simple model that was fitted on the same training rows, on the same items."
        blocks += [Prose(text, tone="quiet"), compared]
    if truncated := numbers.finite(details.get("truncated")):
        text = (
            f"Of {numbers.count(truncated)} of {numbers.count(details.get('n'))} texts the model has not seen the end."
        )
        blocks.append(Prose(text, tone="warn"))
    if classes := _classes(details):
        blocks.append(classes)
    if matrix := _matrix(details):
        blocks.append(matrix)
    if diagram := _reliability(details):
        blocks.append(Charts([diagram]))
    if mistakes := _mistakes(details):
        blocks.append(Fold("The most confident mistakes", [mistakes], open=True))
    return blocks


# ---------------------------------------------------------------------- against simple models
def _against_simple(scores: Sequence[Score], name: str) -> Table | None:
    """One row a metric and simple model: both values, the difference with its interval, and a paired test's verdict."""
    ours = {score.metric: score for score in scores if score.name == name and score.model == TUNED and not score.slice}
    rows = []
    for score in scores:
        tuned = ours.get(score.metric)
        if score.name != name or score.slice or tuned is None or score.difference is None or score.model == TUNED:
            continue
        values = (numbers.score(tuned.value, score.metric), numbers.score(score.value, score.metric))
        rows.append([Cell(score.model), Cell(score.metric), *map(Cell, values), _verdict(score)])
    columns = [Column("Simple model"), Column("Metric"), Column("Tuned", True), Column("Simple", True)]
    return Table([*columns, Column("Difference", True)], rows, stack=True) if rows else None


def beside_simple(scores: Sequence[Score]) -> str:
    """A sentence on the first score that has simple models beside it: against the best of them."""
    for tuned in scores:
        others = [
            one for one in scores
            if (one.name, one.metric) == (tuned.name, tuned.metric) and one.difference is not None and not one.slice
        ]  # fmt: skip
        if tuned.model != TUNED or tuned.slice or not others:
            continue
        sign = 1 if numbers.lower_is_better(tuned.metric) else -1
        best = min(others, key=lambda one: sign * (one.value or 0.0))
        value, simple = (numbers.score(one.value, one.metric) for one in (tuned, best))
        return f"{tuned.metric} on {tuned.name} is {value}, that of {best.model} {simple}: {_verdict(best).detail}."
    return ""


def _verdict(score: Score) -> Cell:
    assert score.difference is not None
    value, low, high = score.difference
    text = numbers.score(value, score.metric, signed=True)
    if low is not None and high is not None:
        ends = (numbers.score(end, score.metric, signed=True) for end in (low, high))
        text += " [{}, {}]".format(*ends)
    p = "" if score.p_value is None else f", {numbers.p_value(score.p_value)}"
    if score.p_value is None or score.p_value >= SURE or value == 0:
        return Cell(text, f"no clear difference{p}", "quiet")
    better = (value < 0) == numbers.lower_is_better(score.metric)
    return Cell(text, ("better" if better else "worse") + p, "good" if better else "bad")


# ---------------------------------------------------------------------- by class
def _classes(details: Mapping[str, Any]) -> Table | None:
    found = details.get("per_class")
    if not isinstance(found, Mapping) or not found:
        return None
    words = ("precision", "recall", "f1")
    rows = []
    for label, row in found.items():
        values = [Cell(numbers.score(dig(row, word), word)) for word in words]
        rows.append([Cell(str(label)), *values, Cell(numbers.count(dig(row, "support")))])
    columns = [Column("Label"), Column("Precision", True), Column("Recall", True), Column("F1", True)]
    return Table([*columns, Column("Items", True)], rows)


def _matrix(details: Mapping[str, Any]) -> Table | None:
    """Rows: what an item is; columns: what the model says. A wrong cell is marked where it is a tenth of its row."""
    labels = [str(label) for label in listed(dig(details, "confusion", "labels"))]
    matrix = [listed(row) for row in listed(dig(details, "confusion", "matrix"))]
    if not labels or len(matrix) != len(labels):
        return None
    rows = []
    for place, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        total = sum(number for number in counts if isinstance(number, int)) or 1
        cells = [Cell(label)]
        for column, number in enumerate(counts):
            tone: Tone = "good" if column == place else "bad" if number / total >= 0.1 else "quiet"
            cells.append(Cell(numbers.count(number), numbers.share(number, total) if number else "", tone))
        rows.append(cells)
    left = numbers.finite(dig(details, "confusion", "left_out"))
    more = f"; {numbers.count(left)} rarer labels are left out" if left else ""
    columns = [Column("Is ↓  said →"), *(Column(label, True) for label in labels)]
    return Table(
        columns, rows, caption=f"Confusion matrix: each row is what an item is, each column what was said{more}"
    )


# ---------------------------------------------------------------------- confidence
def _reliability(details: Mapping[str, Any]) -> IntervalChart | None:
    """A reliability diagram: of each bin of confidence, how confident the model was and how often it was right."""
    bins = [one for one in listed(details.get("reliability")) if numbers.finite(dig(one, "n"))]
    if not bins:
        return None
    several = details.get("kind") == "multi_label_classification"
    said, true = ("Probability", "Share that holds") if several else ("Confidence", "Share right")
    scale = Scale(0.0, 1.0)
    rows = []
    for one in bins:
        n, share = int(one["n"]), one["right"] / one["n"]
        low, high = one["ci95"]
        ends = (
            f"{numbers.score(share, 'accuracy')} [{numbers.score(low, 'accuracy')}, {numbers.score(high, 'accuracy')}]"
        )
        rows.append(
            IntervalRow(
                f"{one['low']:.1f} to {one['high']:.1f}",
                f"{n:,} items",
                [
                    Interval(true, "m0", scale.at(share), scale.at(low), scale.at(high), ends),
                    Interval(said, "m1", scale.at(one["confidence"]), None, None, f"{one['confidence']:.3f}"),
                ],
            )
        )
    told = [f"{row.label}: " + ", ".join(f"{one.model} {one.text}" for one in row.intervals) for row in rows]
    return IntervalChart("Reliability diagram", rows, scale.ticks(4), [(true, "m0"), (said, "m1")], "; ".join(told))


def _mistakes(details: Mapping[str, Any]) -> Table | None:
    found = [one for one in listed(details.get("mistakes")) if isinstance(one, Mapping)]
    if not found:
        return None
    sure = any(one.get("confidence") is not None for one in found)
    columns = [Column("Example"), Column("Text"), Column("Is"), Column("Said")]
    rows = []
    for one in found:
        cells = [Cell(str(one.get("id"))), Cell(str(one.get("text"))), Cell(_label(one.get("label")))]
        cells += [Cell(_label(one.get("prediction")))]
        rows.append([*cells, Cell(numbers.score(one.get("confidence"), "accuracy"))] if sure else cells)
    return Table([*columns, Column("Confidence", True)] if sure else columns, rows, stack=True)


def _label(value: Any) -> str:
    return numbers.general(value) if isinstance(value, float) else str(value) or "none"
