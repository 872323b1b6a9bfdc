"""The report of a run: report.html (one self-contained file) and report.md, from what stands in the run folder.

The walk: `data.gather` reads the folder once into `ReportData`; each function in `sections` turns that into blocks
(tables, figures, charts, code); `page` writes the blocks as HTML and `markdown` as Markdown.
"""

from __future__ import annotations

from pathlib import Path

from alignkit.errors import Problem, UserError
from alignkit.runs import RUN_FILES, holds_run


def write_report(run_dir: Path) -> Path:
    """Write report.html, report.md and the model card (model/README.md), and return the path of report.html.

    Reads recipe.yaml, manifest.json, state.json, metrics.jsonl, evaluation/scores.json and evaluation/samples.jsonl, of
    which each may be missing or cut short: whatever cannot be read is said in the report. Raises OSError only where the
    report cannot be written.
    """
    from alignkit.report.card import write_card
    from alignkit.report.data import gather
    from alignkit.report.markdown import markdown
    from alignkit.report.page import html
    from alignkit.report.sections import build
    from alignkit.report.sections.overview import headline

    run_dir = Path(run_dir)
    data = gather(run_dir)
    head, sections = headline(data), build(data)
    _write(run_dir / "report.md", markdown(head, sections, run_dir))
    _write(run_dir / "report.html", html(head, sections, run_dir))
    write_card(run_dir)
    return run_dir / "report.html"


def command(run_dir: Path) -> Path:
    """`alignkit report RUN`: make the report of a run again, print and return its path.

    Raises UserError where this is no run folder.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(Problem("there is no such run folder", file=run_dir))
    if not holds_run(run_dir):
        hint = f"none of {', '.join(RUN_FILES)} is in it"
        raise UserError(Problem("this folder holds no run", file=run_dir, hint=hint))
    path = write_report(run_dir)
    print(path)
    return path


def _write(path: Path, text: str) -> None:
    """Write aside and rename, so that a kill never leaves half a report."""
    aside = path.with_name(f".{path.name}.tmp")
    # A lone surrogate, which JSON can carry and UTF-8 cannot, becomes a question mark.
    aside.write_bytes(text.encode("utf-8", errors="replace"))
    aside.replace(path)
