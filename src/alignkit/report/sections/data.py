"""What the model saw: rows in, rows dropped and why, tokens, what share of them was learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkit.report import numbers
from alignkit.report.blocks import Block, Cell, Charts, Column, Fact, Facts, Prose, Section, Table, Tone
from alignkit.report.charts import bar_chart
from alignkit.report.data import ReportData, listed

MOST_LABELS = 50


def data_counts(data: ReportData) -> Section | None:
    """Counts of the training and the held-out data, lengths, reasons for dropping, and the sources."""
    train, held_out = data.section("data", "train"), data.section("data", "eval")
    if not train:
        return None
    blocks: list[Block] = [Facts(_counts(train), style="tiles")]
    if held_out:
        rows, tokens = numbers.count(held_out.get("examples")), numbers.count(held_out.get("tokens"))
        blocks.append(Prose(f"Held out for evaluation: {rows} examples, {tokens} tokens."))
        if shared := numbers.finite(held_out.get("also_in_train")):
            text = (
                f"{numbers.count(shared)} of them stand in the training data too: the held-out loss flatters the model."
            )
            blocks.append(Prose(text, tone="warn"))
    if labels := _labels(train, held_out):
        blocks.append(labels)
    if dropped := _dropped(train):
        blocks.append(dropped)
    bins = [item for item in listed(train.get("length_histogram")) if isinstance(item, list) and len(item) == 2]
    counted = [(numbers.count(upper), numbers.finite(n) or 0.0) for upper, n in bins]
    if len(counted) > 1:
        blocks.append(Charts([bar_chart("Examples by length, up to … tokens", counted)]))
    if sources := _sources(train):
        blocks.append(sources)
    return Section("data", "Data", blocks)


def _counts(counts: Mapping[str, Any]) -> list[Fact]:
    rows, examples = numbers.finite(counts.get("rows")), numbers.finite(counts.get("examples"))
    facts = []
    if examples is not None:
        facts.append(Fact("Examples", numbers.count(examples), f"from {numbers.count(rows)} rows" if rows else ""))
    if numbers.finite(counts.get("tokens")) is not None:
        facts.append(Fact("Tokens", numbers.compact(counts["tokens"]), "an epoch"))
    if numbers.finite(counts.get("supervised_tokens")):  # prompts alone have none: what is written is learned from
        share = numbers.share(counts["supervised_tokens"], counts.get("tokens"))
        facts.append(Fact("Supervised", share, f"{numbers.compact(counts['supervised_tokens'])} tokens"))
    if (longest := numbers.finite(counts.get("longest"))) is not None:
        facts.append(Fact("Longest", numbers.count(longest), "tokens"))
    if duplicates := numbers.finite(counts.get("duplicates")):
        facts.append(Fact("Duplicates", numbers.count(duplicates), "kept as they are"))
    if (truncated := numbers.finite(counts.get("truncated"))) is not None:
        tone: Tone = "warn" if examples and truncated / examples > 0.05 else "plain"
        detail = f"{numbers.share(truncated, examples)} of the examples" if truncated else "none was too long"
        facts.append(Fact("Truncated", numbers.count(truncated), detail, tone))
    if (packed := numbers.finite(counts.get("packed_rows"))) is not None:
        fill = numbers.finite(counts.get("fill"))
        facts.append(Fact("Packed rows", numbers.count(packed), f"{numbers.share(fill, 1)} full" if fill else ""))
    return facts


def _labels(train: Mapping[str, Any], held_out: Mapping[str, Any]) -> Table | None:
    """How often each label stands in the training and the held-out rows; of many the most frequent."""
    counts, held = _mapping(train.get("labels")), _mapping(held_out.get("labels"))
    if not counts:
        return None
    total = sum(number for number in counts.values() if isinstance(number, int))
    rows = [
        [
            Cell(str(label)),
            Cell(numbers.count(n)),
            Cell(numbers.share(n, total)),
            Cell(numbers.count(held.get(label, 0))),
        ]
        for label, n in list(counts.items())[:MOST_LABELS]
    ]
    left = f"; {numbers.count(len(counts) - MOST_LABELS)} rarer ones are left out" if len(counts) > MOST_LABELS else ""
    columns = [Column("Label"), Column("Training", True), Column("Share", True), Column("Held out", True)]
    return Table(columns, rows, caption=f"Labels, the most frequent first{left}")


def _dropped(counts: Mapping[str, Any]) -> Table | None:
    reasons = {str(reason): numbers.finite(n) for reason, n in _mapping(counts.get("dropped")).items()}
    kept = {reason: n for reason, n in reasons.items() if n}
    if not kept:
        return None
    ordered = sorted(kept.items(), key=lambda item: -(item[1] or 0))
    rows = [[Cell(reason), Cell(numbers.count(n)), Cell(numbers.share(n, counts.get("rows")))] for reason, n in ordered]
    return Table([Column("Dropped, because"), Column("Rows", True), Column("Share", True)], rows)


def _sources(counts: Mapping[str, Any]) -> Table | None:
    sources = [source for source in listed(counts.get("sources")) if isinstance(source, Mapping)]
    rows = [
        [
            Cell(str(source.get("path") or source.get("generate") or "?")),
            Cell(str(source.get("layout") or numbers.DASH)),
            Cell(str(source.get("shape") or numbers.DASH).replace("_", " ")),
            Cell(numbers.count(source.get("rows"))),
            Cell(numbers.count(source.get("examples"))),
        ]
        for source in sources
    ]
    columns = [Column("Source"), Column("Layout"), Column("Shape"), Column("Rows", True), Column("Examples", True)]
    return Table(columns, rows, stack=True) if rows else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
