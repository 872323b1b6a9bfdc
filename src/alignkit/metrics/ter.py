"""Translation edit rate (Snover et al., 2006) through sacrebleu: per cent of the reference's words, less is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignkit.metrics import sacre
from alignkit.metrics.measurement import Measurement, divide
from alignkit.metrics.parallel import Progress


def ter(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    case_sensitive: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Corpus TER; lower-cased unless `case_sensitive`. An empty prediction costs one edit a reference word (100)."""
    options = {"case_sensitive": case_sensitive}
    return sacre.measure(
        "ter", "TER", options, formula, predictions, references, higher_is_better=False, progress=progress
    )


def formula(sums: np.ndarray) -> np.ndarray:
    """TER from sums of (edits, mean reference length); words against an empty reference count as 100."""
    edits, length = sums[..., 0], sums[..., 1]
    return 100 * np.where(length > 0, divide(edits, length), edits > 0)
