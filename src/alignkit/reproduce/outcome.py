"""Whether two runs came to the same: weights, metrics, scores and what was trained on, one verdict each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignkit.runs import Run
from alignkit.sameness import differing_line, how_far, same_bytes, scores_by_key, tensors

BESIDE = ("model", "critic")
"""The folders of a run that hold what was learned."""


@dataclass(frozen=True)
class Verdict:
    """Of one part of a result: `equal` is None where neither run has it."""

    part: str
    equal: bool | None
    text: str


def compare(one: Run, other: Run) -> list[Verdict]:
    """One verdict a part; `one` is the run that was built again, `other` what came of it."""
    return [
        _inputs(one, other),
        *_weights(one, other),
        _metrics(one, other),
        _scores(one, other),
        _settings(one, other),
    ]


def _inputs(one: Run, other: Run) -> Verdict:
    """By the content of what was read, and by how many examples and tokens were made of it."""
    then, now = (_content(run) for run in (one, other))
    names = [name for name in then if name in now and then[name] is not None]
    differing = [name for name in names if then[name] != now[name]]
    if differing:
        return Verdict("inputs", False, f"not the same: {', '.join(differing)}")
    return Verdict("inputs", True if names else None, f"the same: {', '.join(names)}" if names else "not told")


def _content(run: Run) -> dict[str, Any]:
    """Not by the fingerprint of the prepared data: that one also knows where the files lie."""
    manifest = run.manifest
    read = {name: entry.get("fingerprint") for name, entry in (manifest.get("inputs") or {}).items()}
    used = {name: (manifest.get("fingerprints") or {}).get(name) for name in ("base", "tokenizer", "template")}
    counts = {
        split: {name: value for name, value in numbers.items() if name != "sources"}
        for split, numbers in (manifest.get("data") or {}).items()
        if isinstance(numbers, dict)
    }
    return {**read, **used, **({"examples and tokens": counts} if counts else {})}


def _settings(one: Run, other: Run) -> Verdict:
    """Told, and no difference of the result by themselves."""
    then, now = (run.manifest.get("settings") or {} for run in (one, other))
    found = [f"{name} {then[name]} then, {now[name]} now" for name in then if name in now and then[name] != now[name]]
    return Verdict("settings", None, "; ".join(found) or ("the same" if then else "nothing told of them"))


# ---------------------------------------------------------------------- weights
def _weights(one: Run, other: Run) -> Iterator[Verdict]:
    for name in BESIDE:
        then, now = (tensors(*sorted((run.path / name).glob("*.safetensors"))) for run in (one, other))
        if not then and not now and name != "model":
            continue
        part = "weights" if name == "model" else f"{name}'s weights"
        if not then and not now:
            yield Verdict(part, None, "neither run has any as safetensors")
        elif then.keys() != now.keys():
            lacking = sorted(then.keys() ^ now.keys())
            yield Verdict(part, False, f"{len(lacking)} tensors only one of the two has, such as {lacking[0]}")
        else:
            differing = [key for key in then if not same_bytes(then[key], now[key])]
            if differing:
                yield Verdict(part, False, how_far(then, now, differing))
            else:
                yield Verdict(part, True, f"bitwise equal ({len(then)} tensors)")


# ---------------------------------------------------------------------- metrics and scores
def _metrics(one: Run, other: Run) -> Verdict:
    """Line by line, times left out."""
    then, now = one.metrics(), other.metrics()
    if found := differing_line(then, now):
        before, after, key = found
        told = f"{key} {_told(before, key)} then, {_told(after, key)} now"
        return Verdict("metrics", False, f"differ from step {before.get('step')} on: {told}")
    if len(then) != len(now):
        return Verdict("metrics", False, f"{len(then)} lines then, {len(now)} now; those that both have are equal")
    return Verdict("metrics", True if then else None, f"equal ({len(then)} lines)" if then else "none logged")


def _told(line: dict[str, Any], key: str) -> str:
    value = line.get(key, "nothing")
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _scores(one: Run, other: Run) -> Verdict:
    then, now = scores_by_key(one), scores_by_key(other)
    differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not differing:
        return Verdict("scores", True if then else None, f"equal ({len(then)} scores)" if then else "none")
    name, _, model, metric, _ = first = differing[0]
    told = f"{metric} of {name} ({model}) {_told(then, first)} then, {_told(now, first)} now"  # type: ignore[arg-type]
    return Verdict("scores", False, f"{len(differing)} of {len({**then, **now})} differ: {told}")
