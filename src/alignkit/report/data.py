"""Everything a report shows, gathered once from the run folder. Each file may be missing or broken: an interrupted run
has a report too, and what could not be read is said in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit.report.curves import Series, series_of
from alignkit.report.numbers import finite, general
from alignkit.runs import Run

BASELINE, TUNED = "baseline", "tuned"
VERDICTS = ("correct", "exact_match", "numeric_match", "accuracy", "preference_accuracy")


@dataclass(frozen=True, slots=True)
class Score:
    """One line of scores.json; `value` is None where no finite number was stored."""

    name: str
    task: str
    split: str
    model: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    signature: str = ""
    slice: str = ""
    p_value: float | None = None  # of the difference to the baseline
    difference: tuple[float, float | None, float | None] | None = None  # value, and the ends of its interval


@dataclass(frozen=True, slots=True)
class Output:
    """What one model answered to a sample, and whether that was right, where the task says so."""

    text: str
    correct: bool | None = None
    note: str = ""


@dataclass(slots=True)
class Sample:
    """One evaluated item with the answers of each model."""

    task: str
    id: str
    prompt: str = ""
    reference: str = ""
    outputs: dict[str, Output] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The folder `model/` of the run: what kind of thing it is, as its own files say."""

    path: Path
    kind: str  # "model", "adapter" or "" where there is none
    task: str  # CausalLM, SequenceClassification or TokenClassification
    chat: bool
    base: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """All inputs of a report. Missing parts are empty."""

    run_dir: Path
    state: str
    resume: str
    error: str
    recipe: dict[str, Any]
    recipe_text: str
    manifest: dict[str, Any]
    curves: dict[str, Series]
    scores: list[Score]
    samples: list[Sample]
    completions: list[dict[str, Any]]  # of an online method through training, each with a finite `step`
    details: list[dict[str, Any]]  # evaluation/details.json: {name, model, …} of what tasks know beside their scores
    result: Result
    notes: list[str]

    def section(self, *keys: str) -> Mapping[str, Any]:
        """The manifest's mapping at this path of keys; empty where there is none."""
        value = dig(self.manifest, *keys)
        return value if isinstance(value, Mapping) else {}

    def manifest_at(self, *keys: str) -> Any:
        """The manifest's value at this path of keys, or None."""
        return dig(self.manifest, *keys)

    def recipe_at(self, *keys: str) -> Any:
        """The resolved recipe's value at this path of keys, or None."""
        return dig(self.recipe, *keys)

    @property
    def warnings(self) -> list[str]:
        """What the run warned of."""
        found = self.manifest.get("warnings")
        return [str(item) for item in found] if isinstance(found, list) else []


def gather(run_dir: Path, *, samples: bool = True) -> ReportData:
    """Read the run folder. Never raises for what is in the files; what could not be used stands in `notes`.

    Without `samples` the files of single answers, which may be large, are left alone.
    """
    run = Run(run_dir)
    notes: list[str] = []
    state = _mapping(run.state_path, notes)
    recipe_text = _text(run.recipe_path, notes)
    answers, completions = run.evaluation_dir / "samples.jsonl", run_dir / "samples.jsonl"
    said = list(_lines(completions, notes)) if samples else []
    return ReportData(
        run_dir=run_dir,
        state=_state(run, state),
        resume=str(state.get("resume") or ""),
        error=str(state.get("error") or ""),
        recipe=_yaml(recipe_text, notes),
        recipe_text=recipe_text,
        manifest=_mapping(run.manifest_path, notes),
        curves=series_of(_lines(run.metrics_path, notes)),
        scores=_scores(run.evaluation_dir / "scores.json", notes),
        samples=_samples(_lines(answers, notes)) if samples else [],
        completions=[line for line in said if finite(line.get("step")) is not None],
        details=[item for item in listed(_json(run.evaluation_dir / "details.json", notes)) if isinstance(item, dict)],
        result=result_at(run.model_dir),
        notes=notes,
    )


def listed(value: Any) -> list[Any]:
    """A stored list; empty where something else was stored."""
    return value if isinstance(value, list) else []


def dig(mapping: Any, *keys: str) -> Any:
    """The value at a path of keys; None where any part of the path is not there."""
    for key in keys:
        if not isinstance(mapping, Mapping):
            return None
        mapping = mapping.get(key)
    return mapping


def _state(run: Run, state: Mapping[str, Any]) -> str:
    """How the run ended; the file's word once it has ended (the report is written while its lock is still held)."""
    ended = state.get("state")
    if ended in ("finished", "failed", "interrupted"):
        return str(ended)
    try:
        return run.state
    except (AttributeError, ValueError):  # a state.json that is no JSON object
        return "died"


def _text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}")
        return ""


def _json(path: Path, notes: list[str]) -> Any:
    text = _text(path, notes)
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError:
        notes.append(f"{path.name} is not valid JSON and was left out")
        return None


def _mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    value = _json(path, notes)
    return value if isinstance(value, dict) else {}


def _lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSONL file. A line that is none (a kill cut it short) is left out and counted."""
    broken = 0
    for text in _text(path, notes).split("\n"):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            yield value
        else:
            broken += 1
    if broken:
        notes.append(f"{path.name}: {broken:,} line{'s' if broken > 1 else ''} could not be read")


def _yaml(text: str, notes: list[str]) -> dict[str, Any]:
    if not text.strip():
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe").load(text)
    except YAMLError:
        notes.append("recipe.yaml is not valid YAML; it is shown as it stands")
        return {}
    return value if isinstance(value, dict) else {}


def _scores(path: Path, notes: list[str]) -> list[Score]:
    rows = _json(path, notes)
    if rows is None:
        return []
    if not isinstance(rows, list):
        notes.append("scores.json is not a list and was left out")
        return []
    return [_score(row) for row in rows if isinstance(row, dict) and row.get("metric")]


def _score(row: Mapping[str, Any]) -> Score:
    low, high = _pair(row.get("ci95"))
    n = finite(row.get("n"))
    p_value = next((finite(row[key]) for key in ("p_holm", "p_value", "p") if finite(row.get(key)) is not None), None)
    return Score(
        name=str(row.get("name") or row.get("task") or ""),
        task=str(row.get("task") or ""),
        split=str(row.get("split") or ""),
        model=str(row.get("model") or TUNED),
        metric=str(row["metric"]),
        value=finite(row.get("value")),
        low=low,
        high=high,
        n=None if n is None else int(n),
        signature=str(row.get("signature") or ""),
        slice=_slice(row.get("slice")),
        p_value=p_value if p_value is not None else finite(dig(row, "difference", "p_value")),
        difference=_difference(row.get("difference")),
    )


def _difference(value: Any) -> tuple[float, float | None, float | None] | None:
    number = finite(dig(value, "value") if isinstance(value, Mapping) else value)
    return None if number is None else (number, *_pair(dig(value, "ci95")))


def _pair(value: Any) -> tuple[float | None, float | None]:
    return (finite(value[0]), finite(value[1])) if isinstance(value, list) and len(value) == 2 else (None, None)


def _slice(value: Any) -> str:
    if isinstance(value, Mapping):
        if "column" in value and "value" in value:
            return f"{value['column']} = {value['value']}"
        return ", ".join(f"{key} = {item}" for key, item in value.items())
    return "" if value is None else str(value)


def _samples(lines: Iterator[dict[str, Any]]) -> list[Sample]:
    """Rows of one item each (`tuned`, `baseline`), or of one item and model each (`model`, `output`), as items."""
    found: dict[tuple[str, str], Sample] = {}
    for number, row in enumerate(lines):
        task = str(row.get("name") or row.get("task") or "")
        key = row.get("id", row.get("example_id"))
        if key is not None and row.get("sample"):  # one of several completions of a prompt
            key = f"{key} #{row['sample']}"
        sample = found.setdefault(
            (task, str(number if key is None else key)), Sample(task, str(number if key is None else key))
        )
        sample.prompt = sample.prompt or as_text(_first(row, "prompt", "text", "input", "messages", "tokens"))
        sample.reference = sample.reference or as_text(
            _first(row, "reference", "references", "label", "answer", "chosen")
        )
        if "model" in row:
            sample.outputs[str(row["model"])] = _output(row)
        for model in (BASELINE, TUNED):
            if row.get(model) is not None:
                sample.outputs[model] = _output(row[model])
    return list(found.values())


def _output(value: Any) -> Output:
    """An answer with its verdict: said outright, or by a metric that is one by item."""
    if not isinstance(value, Mapping):
        return Output(as_text(value))
    text = as_text(_first(value, "output", "prediction", "completion", "generated"))
    stored = _first(value, "metrics", "scores")
    scores = stored if isinstance(stored, Mapping) else {}
    verdict = _first({**scores, **value}, *VERDICTS)
    number = float(verdict) if isinstance(verdict, bool) else finite(verdict)
    notes = [
        f"{key} {general(item, 3)}" for key, item in scores.items() if key not in VERDICTS and finite(item) is not None
    ]
    if value.get("finish") == "length":
        notes.append("cut off")
    return Output(text, None if number is None else number >= 0.5, ", ".join(notes))


def _first(row: Mapping[str, Any], *keys: str) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def as_text(value: Any) -> str:
    """A sample's field as text: strings as they are, chats by turn, lists of strings one a paragraph, else JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "content" in item for item in value):
        return "\n".join(f"{item.get('role', '?')}: {as_text(item['content'])}" for item in value)
    return json.dumps(value, ensure_ascii=False)


def result_at(folder: Path) -> Result:
    """What `model/` holds, from its config files; torch-free and forgiving."""
    ignored: list[str] = []
    adapter = _mapping(folder / "adapter_config.json", ignored)
    config = _mapping(folder / "config.json", ignored)
    tokenizer = _mapping(folder / "tokenizer_config.json", ignored)
    task = "CausalLM"
    if adapter:
        task = {"SEQ_CLS": "SequenceClassification", "TOKEN_CLS": "TokenClassification"}.get(
            str(adapter.get("task_type")), task
        )
    else:
        architecture = str(next(iter(listed(config.get("architectures"))), ""))
        task = next((t for t in ("SequenceClassification", "TokenClassification") if architecture.endswith(t)), task)
    return Result(
        path=folder,
        kind="adapter" if adapter else "model" if config else "",
        task=task,
        chat=(folder / "chat_template.jinja").exists() or bool(tokenizer.get("chat_template")),
        base=str(adapter.get("base_model_name_or_path") or ""),
    )
