"""The sections of a report, in their order.

A section is a function from `ReportData` to a `Section`, or to None where the run has nothing to show in it; a new one
(a confusion matrix, a reward distribution) is a function and a line here.
"""

from __future__ import annotations

from collections.abc import Callable

from alignkit.report.blocks import Section
from alignkit.report.data import ReportData
from alignkit.report.sections.classification import classification
from alignkit.report.sections.data import data_counts
from alignkit.report.sections.overview import key_figures, warnings
from alignkit.report.sections.preferences import preferences
from alignkit.report.sections.reuse import load, recipe, reproduce
from alignkit.report.sections.rewards import rewards
from alignkit.report.sections.samples import samples
from alignkit.report.sections.scores import scores, slices
from alignkit.report.sections.training import training

SECTIONS: tuple[Callable[[ReportData], Section | None], ...] = (
    key_figures,
    warnings,
    scores,
    slices,
    classification,
    preferences,
    training,
    rewards,
    data_counts,
    samples,
    load,
    reproduce,
    recipe,
)


def build(data: ReportData) -> list[Section]:
    """All sections that this run fills."""
    return [section for make in SECTIONS if (section := make(data)) is not None]
