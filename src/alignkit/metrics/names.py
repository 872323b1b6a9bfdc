"""Suggestions for names that are not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`did you mean bleu?`, or None where nothing is close."""
    by_fold = {candidate.casefold().replace("_", "").replace("-", ""): candidate for candidate in known}
    close = get_close_matches(name.casefold().replace("_", "").replace("-", ""), by_fold, n=1, cutoff=0.6)
    return f"did you mean {by_fold[close[0]]!r}?" if close else None
