"""What preferences came to: a reward model's rewards and mistakes, or what a policy's likelihoods became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignkit.report import numbers
from alignkit.report.blocks import Block, Cell, Charts, Column, Fact, Facts, Fold, Prose, Section, Table
from alignkit.report.charts import bar_chart
from alignkit.report.data import BASELINE, TUNED, ReportData, dig, listed
from alignkit.report.numbers import finite

BETA = 0.1  # of DPO, where a recipe gives none
BINS = 20


def preferences(data: ReportData) -> Section | None:
    """One part for each task on pairs: by rewards, or by likelihoods beside the baseline's."""
    tasks = [one for one in data.details if one.get("task") == "preference"]
    blocks: list[Block] = []
    for details in tasks:
        if details.get("kind") == "reward" and details.get("model") == TUNED:
            blocks += _rewards(data, details)
        elif details.get("kind") == "likelihood" and details.get("model") == TUNED:
            blocks += _likelihoods(data, details, tasks)
    return Section("preferences", "Preferences", blocks) if blocks else None


# ---------------------------------------------------------------------- reward models
def _rewards(data: ReportData, details: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [Facts(_length_facts(data, details), style="tiles")]
    bins = [row for row in listed(details.get("histogram")) if isinstance(row, list) and len(row) == 4]
    if bins:
        charts = [
            bar_chart(f"Rewards of {word} answers", [(numbers.general(row[0], 2), row[place]) for row in bins])
            for place, word in ((2, "chosen"), (3, "rejected"))
        ]
        blocks.append(Charts(charts, small=True))
    if calibration := _calibration(listed(details.get("calibration"))):
        blocks.append(calibration)
    if worst := _worst(listed(details.get("worst"))):
        blocks.append(worst)
    return blocks


def _length_facts(data: ReportData, details: Mapping[str, Any]) -> list[Fact]:
    """What of the accuracy length alone would explain."""
    mine, longer = (_accuracy(data, str(details.get("name")), model) for model in (TUNED, "longer_wins"))
    blind = None if longer is None else max(longer, 1 - longer)
    which = "" if longer is None else "the longer answer wins" if longer >= 0.5 else "the shorter answer wins"
    suspicious = mine is not None and blind is not None and mine <= blind
    facts = [
        Fact("accuracy by length alone", numbers.score(blind, "preference_accuracy"), which),
        Fact("reward against length", numbers.general(details.get("length_correlation"), 2), "Pearson's r"),
        Fact(
            "margin against difference in length",
            numbers.general(details.get("margin_length_correlation"), 2),
            "Pearson's r",
        ),
    ]
    if suspicious:
        facts.insert(0, Fact("length bias", "no better than length", "the rewards may measure length alone", "warn"))
    return facts


def _accuracy(data: ReportData, name: str, model: str) -> float | None:
    return next(
        (
            score.value
            for score in data.scores
            if (score.name, score.model, score.metric, score.slice) == (name, model, "preference_accuracy", "")
        ),
        None,
    )


def _calibration(rows: Sequence[Any]) -> Table | None:
    found = [row for row in rows if isinstance(row, list) and len(row) == 3]
    if not found:
        return None
    columns = [Column("Predicted win rate", True), Column("Observed", True), Column("Pairs", True)]
    body = [
        [Cell(numbers.score(predicted, "share")), Cell(numbers.score(observed, "share")), Cell(numbers.count(pairs))]
        for predicted, observed, pairs in found
    ]
    caption = "Calibration: how sure the rewards are of the answer they prefer, and how often it is the chosen one."
    return Table(columns, body, caption)


def _worst(mistakes: Sequence[Any]) -> Fold | None:
    rows = [
        [
            Cell(str(one.get("prompt", ""))[-200:], str(one.get("id", ""))),
            Cell(str(one.get("chosen", ""))[:300], numbers.general(one.get("chosen_reward"))),
            Cell(str(one.get("rejected", ""))[:300], numbers.general(one.get("rejected_reward"))),
        ]
        for one in mistakes
        if isinstance(one, Mapping)
    ]
    if not rows:
        return None
    table = Table([Column("Prompt"), Column("Chosen, and its reward"), Column("Rejected")], rows, stack=True)
    return Fold(f"Worst mistakes ({len(rows)})", [table])


# ---------------------------------------------------------------------- policies
def _likelihoods(data: ReportData, details: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> list[Block]:
    """How log-probabilities moved from the baseline, which by default is the reference."""
    before = next(
        (one for one in tasks if one.get("name") == details.get("name") and one.get("model") == BASELINE), None
    )
    pairs = _both(listed(details.get("log_probs")), listed((before or {}).get("log_probs")))
    if not pairs:
        return []
    beta = finite(dig(data.recipe, "training", "beta"))
    moved = [(now[0] - then[0], now[1] - then[1]) for now, then in pairs]
    margins = [(BETA if beta is None else beta) * (chosen - rejected) for chosen, rejected in moved]
    right = sum(margin > 0 for margin in margins) / len(margins)
    chosen, rejected = (sum(side) / len(moved) for side in zip(*moved, strict=True))
    facts = [
        Fact("implicit rewards right", numbers.share(right, 1), f"of {len(pairs):,} pairs"),
        Fact("mean margin", numbers.general(sum(margins) / len(margins), 3), "of implicit rewards"),
        Fact("chosen answers", _nats(chosen), "log-probability since the start", "warn" if chosen < 0 else "good"),
        Fact("rejected answers", _nats(rejected), "log-probability since the start"),
    ]
    blocks: list[Block] = [Facts(facts, style="tiles")]
    if chosen < 0:
        text = (
            "Likelihood displacement: the chosen answers have become less likely than they were at the start. The "
            "margins grow because the rejected ones fall faster, and what gains is neither. A smaller learning rate, "
            "fewer steps, a larger beta, or the sft loss beside the method's own (loss_type: [sigmoid, sft]) hold it."
        )
        blocks.append(Prose(text, tone="warn"))
    blocks.append(Charts([bar_chart("Margins of implicit rewards", _binned(margins))], small=True))
    return blocks


def _both(after: Sequence[Any], before: Sequence[Any]) -> list[tuple[list[float], list[float]]]:
    """The pairs of both models; none where they were not given the same."""
    if len(after) != len(before):
        return []
    return [
        (now[:2], then[:2])
        for now, then in zip(after, before, strict=True)
        if isinstance(now, list) and isinstance(then, list) and len(now) == len(then) == 4
    ]


def _nats(value: float) -> str:
    return f"{'+' if value > 0 else ''}{numbers.general(value, 3)} nats"


def _binned(values: Sequence[float]) -> list[tuple[str, float]]:
    low, high = min(values), max(values)
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / width))] += 1
    return [(numbers.general(low + place * width, 2), count) for place, count in enumerate(counts)]
