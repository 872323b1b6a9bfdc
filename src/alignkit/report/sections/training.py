"""Training curves."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.report.blocks import Block, Charts, Fold, Section
from alignkit.report.charts import LineChart, line_chart
from alignkit.report.curves import Panel, main_panels, other_panels
from alignkit.report.data import ReportData


def training(data: ReportData) -> Section | None:
    """Loss, learning rate, gradient norm and speed; whatever else was logged behind a fold for each group."""
    blocks: list[Block] = []
    if main := _drawn(main_panels(data.curves)):
        blocks.append(Charts(main))
    for group, panels in other_panels(data.curves).items():
        if charts := _drawn(panels, small=True):
            title = {"": "Other quantities", "eval": "On the held-out data"}.get(group, group)
            blocks.append(Fold(f"{title} ({len(charts)})", [Charts(charts, small=True)]))
    return Section("training", "Training", blocks) if blocks else None


def _drawn(panels: Sequence[Panel], small: bool = False) -> list[LineChart]:
    return [chart for panel in panels if (chart := line_chart(panel, small)) is not None]
