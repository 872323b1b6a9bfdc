"""pass@k: the chance that at least one of k samples solves the problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.metrics.measurement import Measurement, mean_of


def estimate(samples: int, correct: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k), the unbiased estimator (Chen et al. 2021, eq. 1), as a product that cannot overflow."""
    if samples - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


def pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> Measurement:
    """The mean over problems; `correct` holds one flag a sample. Raises UserError where a problem has fewer than k."""
    counts = [len(flags) for flags in correct]
    if not 0 < k <= min(counts):
        message = f"pass@{k} needs at least {max(k, 1)} samples of each problem; the fewest here is {min(counts)}"
        raise UserError(Problem(message, field="metrics", hint="raise generation.num_return_sequences"))
    scores = [estimate(len(flags), sum(map(bool, flags)), k) for flags in correct]
    drawn = counts[0] if len(set(counts)) == 1 else "var"
    return mean_of(
        f"pass@{k}", np.array(scores), f"k:{k}|samples:{drawn}|version:alignkit-1", right_or_wrong=drawn == 1
    )
