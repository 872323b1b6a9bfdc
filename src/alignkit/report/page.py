"""The HTML page: the sections' blocks through the templates, with style and script inside, into one file."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from alignkit.report.blocks import Section
from alignkit.report.charts import LineChart
from alignkit.report.sections.overview import Headline

TEMPLATES = Path(__file__).parent / "templates"


def html(head: Headline, sections: list[Section], run_dir: Path) -> str:
    """The whole page. Texts are escaped by the templates; the policy in its head lets only our own script run, so that
    not even a text that slipped through could do anything."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"chart_data": _chart_data, "dots": _dots}
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.jinja").render(
        head=head,
        sections=sections,
        run_dir=run_dir,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _chart_data(chart: LineChart) -> list[dict[str, Any]]:
    """The drawn values of a chart, for the page's tooltips."""
    return [{"name": line.name, "x": [_short(x) for x in line.xs], "y": line.ys} for line in chart.lines]


def _short(step: float) -> float:
    return int(step) if step.is_integer() else step


def _dots(path: str) -> str:
    """The points of a path as lines of no length, which round caps make dots."""
    return "".join(f"M{point}h0" for point in re.findall(r"[ML]([^MLh]+)", path))
