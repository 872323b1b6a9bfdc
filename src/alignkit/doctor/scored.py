"""What the evaluation says of the result, and what the folder lacks for more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from alignkit.doctor.endings import checkpoints
from alignkit.doctor.findings import Case, Finding
from alignkit.report.data import Score
from alignkit.report.numbers import lower_is_better, score, size

CUT, EMPTY = 0.2, 0.1
"""Shares of completions that are cut off, or say nothing, from which on that is odd."""
ROOM = 2**30


def scored(case: Case) -> Iterator[Finding]:
    by_key = {(one.name, one.metric, one.model): one for one in case.data.scores if not one.slice}
    for (name, metric, model), one in by_key.items():
        if model != "tuned" or one.value is None:
            continue
        if metric == "truncated_share" and one.value > CUT:
            what = f"{name}: {one.value:.0%} of the answers were cut off at max_new_tokens."
            advice = (
                "raise generation.max_new_tokens; if they never end, see in `alignkit inspect` whether the stop token "
            )
            yield Finding("cut_off", "warn", what, advice + "is trained on")
        elif metric == "empty_share" and one.value > EMPTY:
            what = f"{name}: {one.value:.0%} of the answers say nothing."
            yield Finding("empty_answers", "warn", what, "look at evaluation/samples.jsonl, and at the chat template")
        elif metric not in ("truncated_share", "empty_share", "repetition"):
            start = by_key.get((name, metric, "baseline"))
            if start is not None and start.value is not None and _worse(one, start):
                figures = f"{score(start.value, metric)} before training, {score(one.value, metric)} after"
                advice = "lower training.learning_rate or train shorter; does the evaluation ask for what was trained?"
                yield Finding("worse", "bad", f"{name}: {metric} got worse: {figures}.", advice)


def _worse(tuned: Score, start: Score) -> bool:
    """By more than chance explains: by the interval of the difference, else by intervals that lie apart."""
    if tuned.difference is not None:
        _, low, high = tuned.difference
    elif None not in (tuned.low, tuned.high, start.low, start.high):
        low, high = tuned.low - start.high, tuned.high - start.low  # type: ignore[operator]
    else:
        return False
    if lower_is_better(tuned.metric):
        return low is not None and low > 0
    return high is not None and high < 0


def room(case: Case) -> Iterator[Finding]:
    """A disk that the next checkpoint would fill."""
    folder = case.data.run_dir
    try:
        free = shutil.disk_usage(folder).free
        newest = folder / "checkpoints" / f"checkpoint-{max(checkpoints(case), default=0)}"
        needed = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()) if newest.is_dir() else 0
    except OSError:
        return
    if case.state != "finished" and free < max(2 * needed, ROOM if needed > ROOM // 10 else 0):
        what = f"The disk has {size(free)} free, and a checkpoint takes {size(needed)}."
        yield Finding("little_room", "warn", what, "free some space, or lower training.save_total_limit")
