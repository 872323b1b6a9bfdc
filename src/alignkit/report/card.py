"""The model card, README.md beside the weights: what this is, how good, and how to load it; with the Hub's metadata."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.model_folders import is_hub_id
from alignkit.report import numbers
from alignkit.report.data import BASELINE, TUNED, ReportData, Score, gather, listed, result_at
from alignkit.report.sections.overview import METHODS, tuning
from alignkit.report.sections.reuse import snippet
from alignkit.report.sections.scores import comparisons

CARD = "README.md"
PIPELINES = {
    "CausalLM": "text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
}


def write_card(run_dir: Path, folder: Path | None = None) -> None:
    """Write README.md into the run's `model/`, or into `folder`, which holds that result in another form (merged).

    Written only where it would say something else than what stands there.
    """
    data = gather(run_dir)
    if folder is not None:
        data = replace(data, result=replace(result_at(folder), base=data.result.base))
    place = (folder or data.result.path) / CARD
    if not data.result.kind:
        return
    text = card(data)
    if not place.is_file() or place.read_text(encoding="utf-8", errors="replace") != text:
        place.write_text(text, encoding="utf-8", errors="replace")


def card(data: ReportData) -> str:
    """The card: YAML metadata as the Hub reads it, then Markdown."""
    from ruamel.yaml import YAML

    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(metadata(data), text)
    return f"---\n{text.getvalue()}---\n\n" + "\n\n".join(_paragraphs(data)) + "\n"


# ---------------------------------------------------------------------- metadata
def metadata(data: ReportData) -> dict[str, Any]:
    """The card's metadata. Only Hub ids stand in it: the Hub refuses a card that names a local path as its base."""
    base, sets = _base(data), list(dict.fromkeys(_hub_sets(data)))
    adapter = data.result.kind == "adapter"
    method = str(data.recipe_at("method") or "")
    found: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": PIPELINES[data.result.task],
        "tags": ["alignkit", *filter(None, [method, tuning(data).split(",")[0].lower() if adapter else ""])],
    }
    if base is not None:
        found |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if sets:
        found["datasets"] = sets
    if results := list(_results(data)):
        found["model-index"] = [{"name": _name(data), "results": results}]
    return found


def _base(data: ReportData) -> str | None:
    """The base's Hub id; None where it is a local folder or new weights."""
    named = data.result.base or data.recipe_at("model", "model_name_or_path")
    return str(named) if isinstance(named, str) and _on_hub(named) else None


def _on_hub(name: str) -> bool:
    return is_hub_id(name) and not Path(name).is_absolute() and not Path(name).exists()


def _hub_sets(data: ReportData) -> Iterator[str]:
    for source in listed(data.recipe_at("data", "train")):
        path = source.get("path") if isinstance(source, dict) else None
        if isinstance(path, str) and _on_hub(path):
            yield path


def _results(data: ReportData) -> Iterator[dict[str, Any]]:
    """The tuned model's scores as the Hub's model-index has them: one entry a task."""
    tuned = [score for score in data.scores if score.model == TUNED and score.value is not None and not score.slice]
    for name in dict.fromkeys(score.name for score in tuned):
        scores = [score for score in tuned if score.name == name]
        yield {
            "task": {"type": PIPELINES[data.result.task]},
            "dataset": {"type": name, "name": name, **({"split": scores[0].split} if scores[0].split else {})},
            "metrics": [{"type": one.metric, "name": one.metric, "value": one.value} for one in scores],
        }


def _name(data: ReportData) -> str:
    hub = data.recipe_at("training", "hub_model_id")
    return str(hub).rpartition("/")[2] if hub else data.run_dir.resolve().name


# ---------------------------------------------------------------------- text
def _paragraphs(data: ReportData) -> Iterator[str]:
    yield f"# {_name(data)}"
    yield _summary(data)
    if table := _scores(data):
        yield "## Scores"
        yield table
        yield "In brackets: 95 % intervals. The baseline is the model that training started from."
    yield "## Use"
    place = data.recipe_at("training", "hub_model_id") or data.result.path
    yield f"```python\n{snippet(replace(data, result=replace(data.result, path=place)))}\n```"
    if rows := list(_sources(data)):
        yield "## Data"
        yield _table(("source", "examples", "read as"), rows)
    yield "## Training"
    yield _table(("", ""), list(_training(data)))
    yield "Made with [TRL](https://github.com/huggingface/trl), transformers and peft through alignkit."


def _summary(data: ReportData) -> str:
    method = str(data.recipe_at("method") or "")
    named = _base(data)
    base = f"[{named}](https://huggingface.co/{named})" if named else _local_base(data)
    what = {"adapter": "An adapter for", "model": "Trained from"}[data.result.kind]
    return f"{what} {base}: {METHODS.get(method, method).lower()}, {tuning(data)}."


def _local_base(data: ReportData) -> str:
    name = data.result.base or data.recipe_at("model", "model_name_or_path")
    if name:
        return f"a local model (`{Path(str(name)).name}`)"
    kind = data.recipe_at("model", "config", "model_type")
    return f"new weights ({kind})" if kind else "new weights"


def _scores(data: ReportData) -> str:
    rows = []
    for one in comparisons(data.scores):
        if one.tuned is not None:
            before = "" if one.baseline is None else _value(one.baseline)
            rows.append((one.name, one.metric, _value(one.tuned), before, str(one.tuned.n or "")))
    return _table(("task", "metric", TUNED, BASELINE, "n"), rows) if rows else ""


def _value(score: Score) -> str:
    text = numbers.score(score.value, score.metric)
    if score.low is None or score.high is None:
        return text
    return f"{text} [{numbers.score(score.low, score.metric)}, {numbers.score(score.high, score.metric)}]"


def _sources(data: ReportData) -> Iterator[tuple[str, ...]]:
    for one in listed(data.manifest_at("data", "train", "sources")):
        if isinstance(one, dict):
            path = str(one.get("path"))
            shown = f"[{path}](https://huggingface.co/datasets/{path})" if _on_hub(path) else Path(path).name
            yield shown, numbers.count(one.get("examples")), str(one.get("layout"))


def _training(data: ReportData) -> Iterator[tuple[str, str]]:
    training = data.recipe_at("training") or {}
    result, versions = data.section("result"), data.section("versions")
    yield "method", str(data.recipe_at("method"))
    yield "tuning", tuning(data)
    for name in ("learning_rate", "lr_scheduler_type", "num_train_epochs", "global_batch_size", "max_length", "beta"):
        if training.get(name) is not None and not (name == "num_train_epochs" and training.get("max_steps", -1) > 0):
            yield name, str(training[name])
    for name in ("steps", "tokens"):
        if result.get(name):
            yield name, numbers.count(result[name])
    yield "seed", str(data.recipe_at("seed"))
    yield "precision", str(data.manifest_at("model", "dtype"))
    known = [f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if versions.get(name)]
    yield "versions", ", ".join(known)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
