"""What the models answered, beside what they should have."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.report.blocks import Block, Column, Prose, SampleCell, SampleRow, Samples, Section, Table
from alignkit.report.data import BASELINE, TUNED, Output, ReportData, Sample

ROWS_A_TASK = 200
CHARACTERS = 4000  # of one text
LABELS = {
    "right": "Right",
    "wrong": "Wrong",
    "changed": "Changed by training",
    "fixed": "Wrong before, right now",
    "broken": "Right before, wrong now",
}


def samples(data: ReportData) -> Section | None:
    """The first samples of each task, with filters counted over those shown and a table of what changed over all."""
    if not data.samples:
        return None
    shown = _shown(data.samples)
    found = {model: None for sample in data.samples for model in sample.outputs}
    models = [
        *(model for model in found if model not in (TUNED, BASELINE)),
        *(m for m in (BASELINE, TUNED) if m in found),
    ]
    rows = [_row(number, sample, models) for number, sample in enumerate(shown, start=1)]
    filters = [(tag, label, sum(tag in row.tags for row in rows)) for tag, label in LABELS.items()]
    columns = ["Prompt", "Reference", *(_title(model) for model in models)]
    tasks = list(dict.fromkeys(sample.task for sample in shown if sample.task))
    blocks: list[Block] = []
    if changes := _changes(data.samples):
        blocks.append(changes)
    table = Samples(columns, rows, [item for item in filters if item[2]], tasks if len(tasks) > 1 else [])
    blocks.append(table)
    if len(shown) < len(data.samples):
        more = f"The first {len(shown):,} of {len(data.samples):,} samples; all are in evaluation/samples.jsonl."
        blocks.append(Prose(more, tone="quiet"))
    return Section("samples", "Samples", blocks)


def tags(sample: Sample) -> list[str]:
    """Which filters a sample answers to: by the tuned model's answer, and by what training changed in it."""
    tuned, baseline = sample.outputs.get(TUNED), sample.outputs.get(BASELINE)
    judged = tuned if tuned is not None else baseline
    found = []
    if judged is not None and judged.correct is not None:
        found.append("right" if judged.correct else "wrong")
    if tuned is not None and baseline is not None:
        if tuned.text.strip() != baseline.text.strip():
            found.append("changed")
        if None not in (tuned.correct, baseline.correct) and tuned.correct != baseline.correct:
            found.append("fixed" if tuned.correct else "broken")
    return found


def _shown(all_samples: Sequence[Sample]) -> list[Sample]:
    taken: dict[str, int] = {}
    shown = []
    for sample in all_samples:
        taken[sample.task] = taken.get(sample.task, 0) + 1
        if taken[sample.task] <= ROWS_A_TASK:
            shown.append(sample)
    return shown


def _row(number: int, sample: Sample, models: Sequence[str]) -> SampleRow:
    cells = [_cell(sample.prompt), _cell(sample.reference)]
    cells += [_answer(sample.outputs.get(model)) for model in models]
    return SampleRow(number, sample.task, cells, tags(sample))


def _cell(text: str) -> SampleCell:
    return SampleCell(text[:CHARACTERS], max(0, len(text) - CHARACTERS))


def _answer(output: Output | None) -> SampleCell:
    if output is None:
        return SampleCell("", note="no answer", tone="quiet")
    text, cut = output.text[:CHARACTERS], max(0, len(output.text) - CHARACTERS)
    if output.correct is None:
        return SampleCell(text, cut, note=output.note)
    verdict = "right" if output.correct else "wrong"
    return SampleCell(text, cut, verdict, output.note, "good" if output.correct else "bad")


def _changes(all_samples: Sequence[Sample]) -> Table | None:
    """Right and wrong before and after, over all samples: what training won and what it lost."""
    counts: dict[tuple[bool, bool], int] = {}
    for sample in all_samples:
        before, after = sample.outputs.get(BASELINE), sample.outputs.get(TUNED)
        if before is None or after is None or before.correct is None or after.correct is None:
            continue
        key = (before.correct, after.correct)
        counts[key] = counts.get(key, 0) + 1
    if not counts:
        return None

    def row(label: str, before: bool) -> list[str]:
        return [label, *(f"{counts.get((before, after), 0):,}" for after in (True, False))]

    columns = [Column("All samples"), Column("Tuned right", True), Column("Tuned wrong", True)]
    return Table(columns, [row("Baseline right", True), row("Baseline wrong", False)])


def _title(model: str) -> str:
    return model.replace("_", " ").capitalize()
