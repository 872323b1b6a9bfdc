"""What a section of the report is made of. Each block has one macro in `templates/blocks.html.jinja` and one writer in
`markdown.py`; sections put blocks together and know nothing of HTML, so that a new section is one small function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from alignkit.report.charts import BarChart, IntervalChart, LineChart

Tone = Literal["plain", "good", "bad", "warn", "quiet"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: its text, a smaller second line, and how it is meant."""

    text: str
    detail: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Column:
    """A table column; numbers stand to the right, in figures of one width."""

    label: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; a row's first cell is its header. `stack`: on a narrow screen each row becomes a card."""

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    stack: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure with its name; `detail` says what it is measured against."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures side by side (`tiles`), or as a list of terms and values (`list`)."""

    kind: ClassVar[str] = "facts"
    items: Sequence[Fact]
    style: Literal["tiles", "list"] = "list"


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph of plain text; with a tone it is set as a note."""

    kind: ClassVar[str] = "prose"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of plain texts."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Code:
    """Text to copy as it is."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts in a grid; `small` ones stand three to a row on a wide screen."""

    kind: ClassVar[str] = "charts"
    items: Sequence[LineChart | BarChart | IntervalChart]
    small: bool = False


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True, slots=True)
class SampleCell:
    """One text of a sample, less its last `cut` characters; the `verdict` on it in the tone's colour, and a `note`."""

    text: str
    cut: int = 0
    verdict: str = ""
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One evaluated item: `tags` are what the filters match."""

    number: int
    task: str
    cells: Sequence[SampleCell]
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """Evaluated items as a table that the page's script makes searchable, sortable and filterable."""

    kind: ClassVar[str] = "samples"
    columns: Sequence[str]
    rows: Sequence[SampleRow]
    filters: Sequence[tuple[str, str, int]]  # tag, label, rows that carry it
    tasks: Sequence[str]


Block = Table | Facts | Prose | Bullets | Code | Charts | Fold | Samples


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report; `slug` is its anchor."""

    slug: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
