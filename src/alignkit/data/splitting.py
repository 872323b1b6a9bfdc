"""Which examples are trained on, which are held out, and how several sources mix."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np


def hold_out(hashes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(train, eval) indices, both in order. Equal rows stay on one side. None: there are no two different rows.

    Args:
        hashes: of each row's content, (N,).
        fraction: of the rows to hold out; at least one is.
    """
    distinct, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    if len(distinct) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(distinct))
    wanted = max(1, round(fraction * len(hashes)))
    chosen = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    held: np.ndarray = np.isin(group, order[: min(chosen, len(distinct) - 1)])
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out_by_stratum(
    groups: np.ndarray, strata: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(train, eval) indices, in order: of each stratum about `fraction` of its rows. None: nothing can be held out.

    Args:
        groups: a number for each row, (N,); rows of one group stay on one side, in the stratum of the first of them.
        strata: a number for each row, (N,): its class. One group of each stratum at least stays in training.
    """
    distinct, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    stratum_of = strata[first]
    held: np.ndarray = np.zeros(len(distinct), dtype=bool)
    short = 0.0  # rows that rounding has left out so far: small strata together give their share too
    for stratum in np.unique(stratum_of):
        members = rng.permutation(np.flatnonzero(stratum_of == stratum))
        wanted = fraction * sizes[members].sum() + short
        taken = 0
        for member in members[:-1]:
            if taken + sizes[member] / 2 > wanted:
                break
            held[member] = True
            taken += int(sizes[member])
        short = wanted - taken
    if not held.any():
        several = [s for s in np.unique(stratum_of) if (stratum_of == s).sum() > 1]
        if not several:
            return None
        held[np.flatnonzero(stratum_of == several[0])[0]] = True
    return np.flatnonzero(~held[group]), np.flatnonzero(held[group])


def mix(parts: Sequence[np.ndarray], weights: Sequence[float], strategy: str, seed: int) -> np.ndarray:
    """Indices in the order in which `datasets.interleave_datasets` draws from the sources by weight.

    Each source is shuffled first: with `first_exhausted` an epoch leaves the ends of the larger ones out, and that
    must not be the ends of their files.
    """
    rng = np.random.default_rng(seed)
    total = sum(weights)
    mixed = datasets.interleave_datasets(
        [datasets.Dataset.from_dict({"index": rng.permutation(part)}) for part in parts],
        probabilities=[weight / total for weight in weights],
        seed=seed,
        stopping_strategy=strategy,
    )
    return np.asarray(mixed.with_format("numpy")["index"][:], dtype=np.int64)
