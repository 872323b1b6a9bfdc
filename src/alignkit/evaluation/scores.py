"""scores.json, samples.jsonl and documents.jsonl: what reports and comparisons read. Every number in them is finite."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit import statistics
from alignkit.errors import RunFailed
from alignkit.metrics import Measurement

SCORES = "scores.json"
SAMPLES = "samples.jsonl"
DOCUMENTS = "documents.jsonl"
DETAILS = "details.json"
Score = dict[str, Any]


def scores_of(
    measurements: Sequence[Measurement],
    about: Mapping[str, Any],
    *,
    signature: str = "",
    clusters: Sequence[Hashable] | None = None,
) -> list[Score]:
    """Lines of scores.json: each value with its 95 % interval, the number of items, and how it was computed.

    Args:
        about: name, task, split and model (and slice) of all of them.
        signature: what the metrics' own signatures don't say: how the texts were generated, the windows, ….
        clusters: the item of each row, where an item has several rows; whole items are resampled.

    Raises:
        RunFailed: a value is not a finite number.
    """
    scores = []
    for measurement, (low, high) in zip(
        measurements, statistics.intervals(measurements, clusters=clusters), strict=True
    ):
        if not all(map(math.isfinite, (measurement.value, low, high))):
            raise RunFailed(
                f"evaluation {about['name']}: {measurement.name} of the {about['model']} model is not a finite number"
            )
        scores.append(
            {
                **about,
                "metric": measurement.name,
                "value": measurement.value,
                "ci95": [low, high],
                "n": measurement.n if clusters is None else len(set(clusters)),
                "signature": "|".join(part for part in (measurement.signature, signature) if part),
            }
        )
    return scores


def write_scores(out_dir: Path, scores: Iterable[Score]) -> list[Score]:
    """Merge `scores` into out_dir/scores.json by (name, model, metric, slice): new ones replace, the rest stays.

    Returns all that the file now holds.
    """
    new = {_key(score): score for score in scores}
    merged = [score for score in read_scores(out_dir) if _key(score) not in new] + list(new.values())
    out_dir.mkdir(parents=True, exist_ok=True)
    _write(out_dir / SCORES, json.dumps(merged, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return merged


def read_scores(out_dir: Path) -> list[Score]:
    """What out_dir/scores.json holds; [] where there is none."""
    path = out_dir / SCORES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write_details(out_dir: Path, name: str, model: str, details: Mapping[str, Any]) -> None:
    """What a task knows beside its scores (a confusion matrix, a distribution): one entry a task and model.

    `out_dir/details.json` is a list of `{name, model, …}` with plain, finite data; the report's sections read it.
    """
    path = out_dir / DETAILS
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [one for one in kept if (one["name"], one["model"]) != (name, model)]
    out_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps([*kept, {"name": name, "model": model, **details}], ensure_ascii=False, allow_nan=False)
    _write(path, text + "\n")


def _key(score: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(json.dumps(score.get(word), sort_keys=True) for word in ("name", "model", "metric", "slice"))


def replace_lines(path: Path, records: Iterable[Mapping[str, Any]], *, name: str, model: str) -> None:
    """Put `records` into the JSONL file at `path` in place of the lines of the same task name and model."""
    kept = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            old = json.loads(line)
            if (old.get("name"), old.get("model")) != (name, model):
                kept.append(line)
    new = [json.dumps(dict(record), ensure_ascii=False, allow_nan=False) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(line + "\n" for line in kept + new))


def _write(path: Path, text: str) -> None:
    """Write aside and rename: a reader, or a kill, never meets half a file."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
