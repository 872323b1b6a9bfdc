"""A deep model's timeline from three shallow ones.

The layers of a deep model are alike, so its operations are those of a shallow one with the layers' part repeated. Each
operation of the shallowest is followed, counted from a phase's start and from its end: from one layer to the next
memory changes evenly, so the most stands at the first layer or at the last. The bytes at each of these operations are
a straight line in the depth; three depths show that they are, to the byte, and the line gives any other depth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alignkit.plan.simulate import Phase, Timeline

COVERED = 0.98
"""Share of a layer's operations that must be seen at both ends; at a layer's edge some differ from the next one's."""
EVEN = 1e-3
"""How far from a line a phase's peak may lie where its operations come in another order at each depth."""


class NotLinear(Exception):
    """The depths do not lie on a line: the model must be simulated in full."""


def extend(timelines: tuple[Timeline, Timeline, Timeline], depths: tuple[int, int, int], depth: int) -> Timeline:
    """The timeline at `depth`, of timelines at three evenly spaced `depths`.

    Raises:
        NotLinear: the three show that it would be a guess.
    """
    steps = (depth - depths[0]) / (depths[1] - depths[0])
    names = [[phase.name for phase in timeline.phases] for timeline in timelines]
    if names[0] != names[1] or names[1] != names[2]:
        raise NotLinear("the phases differ")
    phases = [
        _extend_phase([timeline.phases[index] for timeline in timelines], steps) for index in range(len(names[0]))
    ]
    flops, parameters, trainable = (
        _line([getattr(timeline, name) for timeline in timelines], steps)
        for name in ("flops", "parameters", "trainable")
    )
    held = [int(timeline.phases[0].parts[0, :2].sum()) for timeline in timelines]  # weights and adapter
    layer = (held[1] - held[0]) // (depths[1] - depths[0])
    return replace(
        timelines[2], phases=phases, flops=flops, parameters=parameters, trainable=trainable, layer_bytes=layer
    )


def _line(values: list[int], steps: float) -> int:
    if values[2] - values[1] != values[1] - values[0]:
        raise NotLinear("sizes do not grow evenly")
    return round(values[0] + (values[1] - values[0]) * steps)


def _extend_phase(phases: list[Phase], steps: float) -> Phase:
    shortest, layer = len(phases[0].names), len(phases[1].names) - len(phases[0].names)
    ends = [[(phase.names[::way][:shortest], phase.parts[::way][:shortest]) for phase in phases] for way in (1, -1)]
    counts = [_alike(end) for end in ends]
    if sum(counts) < shortest + COVERED * layer:
        return _extend_peak(phases, steps)
    rows = [_extrapolated([parts[:count] for _, parts in end], steps) for end, count in zip(ends, counts, strict=True)]
    parts = np.concatenate([rows[0], rows[1][::-1]])
    return Phase(phases[0].name, np.zeros(len(parts), dtype=np.int64), parts)


def _extrapolated(parts: list[np.ndarray], steps: float) -> np.ndarray:
    """Rows (N, parts) on the line through the three; their sums are exact, and so are parts that grow evenly."""
    values: np.ndarray = np.rint(parts[0] + (parts[2] - parts[0]) / 2 * steps).astype(np.int64)
    return values


def _alike(end: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """How many operations from the beginning all three have in common and take memory that lies on a line."""
    (first, one), (second, two), (third, three) = end
    totals = [parts.sum(axis=1) for parts in (one, two, three)]
    same = (first == second) & (second == third) & (totals[2] - totals[1] == totals[1] - totals[0])
    return len(same) if same.all() else int(same.argmin())


def _extend_peak(phases: list[Phase], steps: float) -> Phase:
    """The peak alone, where operations do not line up: a loop over parameters, one loop after another."""
    rows = [phase.parts[int(phase.totals.argmax())] for phase in phases]
    totals = [int(row.sum()) for row in rows]
    if abs(totals[2] - 2 * totals[1] + totals[0]) > EVEN * totals[2]:
        raise NotLinear(f"memory in the {phases[0].name} phase does not grow evenly")
    return Phase(phases[0].name, np.zeros(1, dtype=np.int64), _extrapolated([row[None] for row in rows], steps))
