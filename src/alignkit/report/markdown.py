"""The same sections as Markdown, for terminals, pull requests and model cards. Curves become a row of figures each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alignkit.report import numbers
from alignkit.report.blocks import Block, Bullets, Cell, Charts, Code, Facts, Fold, Samples, Section, Table
from alignkit.report.charts import BarChart, IntervalChart, LineChart
from alignkit.report.curves import Series
from alignkit.report.sections.overview import Headline

BARS = "▁▂▃▄▅▆▇█"
SAMPLES = 10
CHARACTERS = 400


def markdown(head: Headline, sections: Sequence[Section], run_dir: Path) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    parts = [f"# {text(head.title)} ({head.state})"]
    if head.kicker:
        parts.append(text(head.kicker))
    if head.base or head.result:
        arrow = f" → {span(head.result)}" if head.result else ""
        parts.append(f"{span(head.base or 'unknown')}{arrow}")
    parts.append(text(head.sentence))
    if head.error:
        parts.append(f"> {text(head.error)}")
    if head.resume:
        parts += ["To continue:", fence(head.resume, "sh")]
    for section in sections:
        parts.append(f"## {text(section.title)}")
        parts += [written for block in section.blocks if (written := _block(block))]
    parts.append(f"Made from the files in the run folder; {span(f'alignkit report {run_dir}')} makes it again.")
    return "\n\n".join(parts) + "\n"


def text(value: str) -> str:
    """Plain text on one line in which nothing is markup."""
    flat = " ".join(value.split())
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def span(value: str) -> str:
    """A code span that no backtick inside can end."""
    flat = " ".join(value.split())
    longest = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    ticks = "`" * (longest + 1)
    return f"{ticks} {flat} {ticks}" if longest else f"`{flat}`"


def fence(value: str, language: str = "") -> str:
    """A code block whose fence is longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`{3,}", value)), default=2)
    return f"{'`' * (longest + 1)}{language}\n{value}\n{'`' * (longest + 1)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] = ()) -> str:
    """A table of already escaped cells."""
    right = [*numeric, *[False] * (len(columns) - len(numeric))]
    lines = [columns, ["---:" if flag else "---" for flag in right], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def sparkline(series: Series, width: int = 24) -> str:
    """A curve in a row of block characters; a gap is a space."""
    step = max(1, len(series.values) / width)
    picked = [series.values[int(i * step)] for i in range(min(width, len(series.values)))]
    known = [value for value in picked if value is not None]
    if not known or max(known) == min(known):
        return BARS[3] * len(known)
    low, high = min(known), max(known)
    return "".join(" " if v is None else BARS[round((v / 2 - low / 2) / (high / 2 - low / 2) * 7)] for v in picked)


def _block(block: Block) -> str:
    """One writer a kind of block."""
    if isinstance(block, Table):
        rows = [[_cell(cell) for cell in row] for row in block.rows]
        return table([text(c.label) for c in block.columns], rows, [c.numeric for c in block.columns])
    if isinstance(block, Facts):
        rows = [[text(fact.label), text(fact.value), text(fact.detail)] for fact in block.items]
        return table(["", "Value", ""], rows)
    if isinstance(block, Code):
        return fence(block.text, block.language)
    if isinstance(block, Charts):
        return _charts(block)
    if isinstance(block, Fold):
        inner = [written for item in block.blocks if (written := _block(item))]
        return "\n\n".join([f"<details><summary>{text(block.title)}</summary>", *inner, "</details>"]) if inner else ""
    if isinstance(block, Samples):
        return _samples(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {text(item)}" for item in block.items)
    return text(block.text)


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return text(cell)
    return text(
        f"{cell.text} ({cell.detail})"
        if cell.detail and not cell.detail.startswith("[")
        else f"{cell.text} {cell.detail}".strip()
    )


def _charts(charts: Charts) -> str:
    """Curves and bars as tables; intervals stand in the scores' table already."""
    parts = []
    curves = [series for chart in charts.items if isinstance(chart, LineChart) for series in chart.summary]
    rows = []
    for series in curves:
        values = [value for _, value in series.finite]
        if values:
            four = (values[0], values[-1], min(values), max(values))
            rows.append([text(series.name), *(numbers.general(value) for value in four), sparkline(series)])
    if rows:
        numeric = [False, True, True, True, True, False]
        parts.append(table(["Logged", "First", "Last", "Least", "Greatest", "Curve"], rows, numeric))
    for chart in charts.items:
        if isinstance(chart, BarChart):
            bars = [[text(bar.label), bar.value] for bar in chart.bars]
            parts.append(table([text(chart.title), "Count"], bars, [True, True]))
        assert isinstance(chart, BarChart | LineChart | IntervalChart)
    return "\n\n".join(parts)


def _samples(block: Samples) -> str:
    columns = ["#", *(text(column) for column in block.columns)]
    rows = []
    for row in block.rows[:SAMPLES]:
        cells = []
        for cell in row.cells:
            short = cell.text[:CHARACTERS] + (" …" if len(cell.text) > CHARACTERS else "")
            said = ", ".join(part for part in (cell.verdict, cell.note) if part)
            cells.append(text(f"{short} ({said})" if said else short))
        rows.append([str(row.number), *cells])
    return table(columns, rows, [True])
