"""The systems that are compared: a run's model, its scores, and the items behind them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignkit import metrics
from alignkit.errors import Problem, UserError
from alignkit.examples.labels import SIMPLE_MODELS
from alignkit.metrics import Measurement
from alignkit.metrics.classification import word_accuracy
from alignkit.metrics.measurement import mean_formula, mean_of
from alignkit.runs import Run, holds_run

Item = dict[str, Any]
CORPUS = ("bleu", "chrf", "chrf++", "ter")
SHARES = (
    "truncated_share",
    "empty_share",
    "position_share",
    "unjudged_share",
)  # what generation tells of itself beside the metrics; less is better


@dataclass(frozen=True)
class System:
    """One model of one run folder."""

    name: str
    run: Path
    model: str

    @property
    def is_simple(self) -> bool:
        """Whether it is one of the simple models beside a classifier: their settings are never those of a network."""
        return self.model in SIMPLE_MODELS

    @cached_property
    def scores(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Its whole scores (no slices) by (task name, metric)."""
        found = Run(self.run).scores()
        whole = [score for score in found if score.get("model") == self.model and not score.get("slice")]
        return {(score["name"], score["metric"]): score for score in whole}

    @cached_property
    def items(self) -> dict[str, dict[Hashable, Item]]:
        """By task name, the lines of samples.jsonl and documents.jsonl by (id, sample)."""
        found: dict[str, dict[Hashable, Item]] = {}
        for file in ("samples.jsonl", "documents.jsonl"):
            for item in _read_lines(Run(self.run).evaluation_dir / file):
                if item.get("model") == self.model:
                    found.setdefault(item["name"], {})[item["id"], item.get("sample")] = item
        return found


def find_systems(runs: Sequence[str | Path]) -> list[System]:
    """`RUN` is a run's tuned model, `RUN:MODEL` another of its models (`runs/a:baseline`); one run alone is compared
    with its own baseline. Raises UserError where a folder has no scores or no such model."""
    pairs = [_folder_and_model(str(run)) for run in runs]
    if not pairs:
        raise UserError("name the runs to compare")
    if len(pairs) == 1:
        pairs = [(pairs[0][0], "baseline"), pairs[0]]
    labels = _labels(pairs)
    systems = []
    for (run, model), label in zip(pairs, labels, strict=True):
        models = sorted({score["model"] for score in _scores(run)})
        if model is None:
            model = "tuned" if "tuned" in models or len(models) != 1 else models[0]
        if model not in models:
            message = f"no scores of a model {model!r}"
            raise UserError(Problem(message, file=run, hint=f"there are {', '.join(models)}"))
        systems.append(System(label, run, model))
    return systems


def _folder_and_model(text: str) -> tuple[Path, str | None]:
    folder, colon, model = text.rpartition(":")
    if colon and not Path(text).exists():
        return Path(folder), model
    return Path(text), None


def _labels(pairs: Sequence[tuple[Path, str | None]]) -> list[str]:
    """The folders' names, in full where two are alike, with the model where it was named."""
    names = [run.resolve().name for run, _ in pairs]
    short = len({run.resolve() for run, _ in pairs}) == len(set(names))
    return [
        f"{name if short else run}{f':{model}' if model else ''}"
        for name, (run, model) in zip(names, pairs, strict=True)
    ]


def _scores(run: Path) -> list[dict[str, Any]]:
    if not run.is_dir():
        raise UserError(Problem("no such run folder", file=run))
    try:
        found = Run(run).scores()
    except json.JSONDecodeError as error:
        raise UserError(Problem(f"not JSON: {error.msg}", file=run / "evaluation" / "scores.json")) from error
    if not found:
        if not holds_run(run):
            raise UserError(Problem("this folder holds no run", file=run))
        hint = f"alignkit eval {run} makes them"
        raise UserError(Problem("the run has no scores", file=run / "evaluation" / "scores.json", hint=hint))
    return found


def _read_lines(path: Path) -> list[Item]:
    if not path.exists():
        return []
    items = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                items.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(Problem(f"not JSON: {error.msg}", file=path, line=number)) from error
    return items


# ---------------------------------------------------------------------- items back to measurements
def measure(
    metric: str, score: Mapping[str, Any], items: Sequence[Item], labels: Sequence[Hashable] = ()
) -> Measurement | None:
    """The metric over these items, from what is written of each; None where that does not suffice.

    `labels` are those of all systems, so that statistics by class have the same columns in each.
    """
    return (
        _from_sums(metric, items)
        or _from_texts(metric, score, items)
        or _from_words(metric, score, items)
        or _from_labels(metric, items, labels)
        or _from_values(metric, items)
    )


def _from_sums(metric: str, items: Sequence[Item]) -> Measurement | None:
    """Perplexity and its kin, from documents.jsonl."""
    below = {"perplexity": "tokens", "bits_per_byte": "bytes", "token_accuracy": "tokens"}.get(metric)
    if below is None or not all("nats" in item and below in item for item in items):
        return None
    above = [item["correct" if metric == "token_accuracy" else "nats"] for item in items]
    counts = [item[below] for item in items]
    if metric == "token_accuracy":
        return Measurement(metric, "", True, np.array([above, counts], dtype=float).T, mean_formula)
    return metrics.get(metric).measure(above, counts)


def _from_texts(metric: str, score: Mapping[str, Any], items: Sequence[Item]) -> Measurement | None:
    """Corpus metrics are counted again from the texts, with the settings that their signature names."""
    if metric not in CORPUS or not all("prediction" in item and references_of(item) for item in items):
        return None
    signed = dict(part.split(":", 1) for part in score.get("signature", "").split("|") if ":" in part)
    options = {
        "tokenize": signed.get("tok"),
        "lowercase": signed.get("case") == "lc",
        "case_sensitive": signed.get("case") == "mixed",
    }
    if str(options["tokenize"]).startswith(("ja-mecab", "ko-mecab")):
        options["tokenize"] = str(options["tokenize"])[:8]
    predictions = [item["prediction"] for item in items]
    return metrics.get(metric).measure(predictions, [references_of(item) for item in items], **options)


def labels_in(items: Sequence[Item]) -> set[Hashable]:
    """Every label that is predicted or expected."""
    found = [value for item in items for value in (_label_of(item), item.get("prediction"))]
    return {value for value in found if isinstance(value, str | int)}


def _label_of(item: Item) -> Any:
    return item.get("label", item.get("reference"))


def _from_words(metric: str, score: Mapping[str, Any], items: Sequence[Item]) -> Measurement | None:
    """The share of right tags: sentences are the items, and words are what is counted."""
    if metric != "accuracy" or not str(score.get("signature", "")).startswith("of:words"):
        return None
    said, expected = [item.get("prediction") or [] for item in items], [_label_of(item) or [] for item in items]
    if any(len(tags) != len(right) for tags, right in zip(said, expected, strict=True)):
        return None
    return word_accuracy(said, expected)


def _from_labels(metric: str, items: Sequence[Item], labels: Sequence[Hashable]) -> Measurement | None:
    """Classification and tagging, from the labels (and probabilities) of each item."""
    if metric not in metrics.REGISTRY:
        return None
    needs = metrics.get(metric).needs
    expected = [_label_of(item) for item in items]
    if any(label is None for label in expected):
        return None
    if needs in ("labels", "tags", "numbers") and all(item.get("prediction") is not None for item in items):
        return metrics.get(metric).measure([item["prediction"] for item in items], expected, labels=labels or None)
    if needs == "probabilities" and all(item.get("probabilities") for item in items):
        numbers = [item.get("label_id", label) for item, label in zip(items, expected, strict=True)]
        if all(isinstance(number, int) for number in numbers):
            return metrics.get(metric).measure(np.array([item["probabilities"] for item in items]), numbers)
    return None


def _from_values(metric: str, items: Sequence[Item]) -> Measurement | None:
    """Means of what each item scored by itself; pass@k from the right and wrong samples of each prompt."""
    if metric.startswith("pass@"):
        kind = "numeric_match" if all("numeric_match" in item.get("metrics", {}) for item in items) else "exact_match"
        flags: dict[str, list[bool]] = {}
        for item in items:
            if kind not in item.get("metrics", {}):
                return None
            flags.setdefault(item["id"], []).append(item["metrics"][kind] > 0.5)
        return metrics.get(metric).measure(list(flags.values()))
    values = [item.get("metrics", {}).get(metric) for item in items]
    if any(value is None for value in values):
        return None
    return mean_of(metric, np.array(values, dtype=float), "", higher_is_better=more_is_better(metric))


def more_is_better(metric: str) -> bool:
    """Whether a higher value is the better one; metrics that are not in the registry count as such unless known."""
    try:
        return metrics.get(metric).higher_is_better
    except UserError:
        return metric not in SHARES


def references_of(item: Item) -> list[str]:
    """The item's references, however many."""
    found = item.get("references", item.get("reference"))
    if found is None:
        return []
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]
