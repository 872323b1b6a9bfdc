"""A comparison as tables: for the terminal, and as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit import metrics
from alignkit.errors import UserError

LEVEL = 0.05
SHOWN = 400  # characters of a text in Markdown


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and the smaller print below or beside it."""

    text: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.small}".strip()


def header(result: Mapping[str, Any]) -> list[str]:
    """Column titles: each system's score, and for each after the first its difference."""
    names = [system["name"] for system in result["systems"]]
    titles = ["metric", *names]
    for name in names[1:]:
        of = "" if len(names) == 2 else f" {name}"
        titles += [f"difference{of}", "p (Holm)", "won/lost"]
    return titles


def lines(result: Mapping[str, Any]) -> dict[str, list[list[Cell]]]:
    """By task, one line of cells a row; a difference that is significant after Holm's correction is marked."""
    made: dict[str, list[list[Cell]]] = {}
    for row in result["rows"]:
        digits = _digits(row["metric"])
        cells = [Cell(f"{row['metric']} {'↑' if row['higher_is_better'] else '↓'}", f"n={row['n']:,}")]
        cells += [_with_interval(system["value"], system["ci95"], digits) for system in row["systems"]]
        for index in range(len(row["systems"]) - 1):
            cells += _tested(row, index, digits)
        made.setdefault(row["name"], []).append(cells)
    return made


def _tested(row: Mapping[str, Any], index: int, digits: int) -> list[Cell]:
    if index >= len(row["comparisons"]):
        return [Cell("–")] * 3
    found = row["comparisons"][index]
    gain = found["difference"] if row["higher_is_better"] else -found["difference"]
    mark = "" if found["p_holm"] >= LEVEL else (" better" if gain > 0 else " worse")
    p = found["p_bootstrap"] if found["p_randomization"] is None else found["p_randomization"]
    return [
        _with_interval(found["difference"], found["ci95"], digits, sign="+", mark=mark),
        Cell(_p(p), f"({_p(found['p_holm'])})"),
        Cell(f"{found['wins']:,}/{found['losses']:,}"),
    ]


def _with_interval(value: float, limits: Sequence[float] | None, digits: int, sign: str = "", mark: str = "") -> Cell:
    if limits is None:  # a score of the harness that comes without an error
        return Cell(f"{value:{sign}.{digits}f}{mark}")
    low, high = (format(limit, f"{sign}.{digits}f") for limit in limits)
    return Cell(f"{value:{sign}.{digits}f}{mark}", f"[{low}, {high}]")


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _digits(metric: str) -> int:
    try:
        return 2 if metrics.get(metric).scale == "percent" else 3
    except UserError:
        return 3


LEGEND = (
    "Brackets: 95% intervals. p: approximate randomization over paired items (the paired bootstrap where outputs "
    "cannot be swapped); in parentheses after Holm's correction over all rows; “better” and “worse” "
    "mark corrected p below 0.05."
)


def print_tables(result: Mapping[str, Any]) -> None:
    """The table, the items that changed most, and the notes, on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for name, rows in lines(result).items():
        table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for title in header(result):
            table.add_column(title, justify="left" if title == "metric" else "right", overflow="fold")
        for cells in rows:
            table.add_row(*(f"{cell.text}\n[dim]{escape(cell.small)}[/dim]" for cell in cells))
        console.print(table)
    console.print(LEGEND, style="dim")
    for item in result["changed"]:
        values = " → ".join(f"{value:.3f}" for value in item["values"])
        console.print(f"\n{item['id']} ({item['name']}, {item['metric']} {values})", style="bold", markup=False)
        for label, text in _texts(result, item):
            console.print(f"  {label}: {_one_line(text, 160)}", markup=False)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)


def _texts(result: Mapping[str, Any], item: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [("prompt", item["prompt"]), *(("reference", text) for text in item["references"][:1])]
    names = [system["name"] for system in result["systems"]]
    pairs += list(zip(names, item["predictions"], strict=True))
    return [(label, str(text)) for label, text in pairs if text is not None]


def _one_line(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as a Markdown document."""
    titles = header(result)
    parts = [
        "# " + " against ".join(system["name"] for system in reversed(result["systems"])),
        "\n".join(f"- {s['name']}: the {s['model']} model of `{s['run']}`" for s in result["systems"]),
        *(_markdown_table(name, titles, rows) for name, rows in lines(result).items()),
        LEGEND,
    ]
    if result["changed"]:
        parts.append("## Items that changed most")
        parts += [_markdown_item(result, item) for item in result["changed"]]
    if result["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in result["notes"])]
    return "\n\n".join(parts) + "\n"


def _markdown_table(name: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    rule = "|---|" + "--:|" * (len(titles) - 1)
    return "\n".join([f"## {name}", "", _table_line(titles), rule, *map(_table_line, rows)])


def _table_line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _markdown_item(result: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    values = " → ".join(f"{value:.3f}" for value in item["values"])
    lines = [f"**{item['id']}** ({item['name']}, {item['metric']} {values})", ""]
    lines += [f"- {label}: `{_one_line(text, SHOWN).replace('`', 'ˋ')}`" for label, text in _texts(result, item)]
    return "\n".join(lines)
