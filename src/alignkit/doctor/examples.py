"""The rows that an example's name stands for, where its file is at hand."""

from __future__ import annotations

import re
from pathlib import Path

from alignkit.doctor.findings import Case
from alignkit.report.data import dig, listed

SHOWN, WIDTH = 3, 120


def shown_rows(case: Case, names: str) -> list[str]:
    """The first rows of `a.jsonl:4, a.jsonl:9`, cut to a line's length each; none for data of other kinds."""
    sources = listed(dig(case.data.recipe, "data", "train"))
    files = {Path(str(one["path"])).name: Path(str(one["path"])) for one in sources if dig(one, "path")}
    rows = []
    for name, number in re.findall(r"([^\s,:]+\.(?:jsonl|ndjson|txt|csv|tsv)):(\d+)", names)[:SHOWN]:
        line = _line(files.get(name), int(number))
        if line:
            rows.append(f"{name}:{number} {line if len(line) <= WIDTH else f'{line[:WIDTH]} …'}")
    return rows


def _line(path: Path | None, number: int) -> str:
    if path is None or not path.is_file():
        return ""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return next((" ".join(text.split()) for place, text in enumerate(file, 1) if place == number), "")
    except OSError:
        return ""
