"""The classification task: labels, several labels, numbers or tags against the data's, beside simple models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit import statistics
from alignkit.errors import Problem, UserError
from alignkit.evaluation.classifier import Classifier
from alignkit.evaluation.diagnosis import diagnose, shown
from alignkit.evaluation.scores import SAMPLES, Score, replace_lines, scores_of, write_details
from alignkit.evaluation.simple import Simple, fit
from alignkit.evaluation.stage import Stage, load_examples, slices_of
from alignkit.examples import Example
from alignkit.examples.labels import MULTI, NUMERIC, SINGLE, TOKEN, Head, as_number, name_of, named
from alignkit.metrics import Measurement
from alignkit.metrics.classification import (
    class_measurements,
    expected_calibration_error,
    label_measurements,
    label_roc_auc,
    roc_auc,
    word_accuracy,
)
from alignkit.metrics.entities import entity_f1
from alignkit.metrics.regression import numeric_measurements

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask

SHAPES = ("labelled",)
PROMISED = "tuned"
"""The model beside which the simple ones are fitted and compared."""


@dataclass(frozen=True)
class Labelled:
    """Examples as a classifier takes them: texts or lists of words, and their labels by name."""

    examples: list[Example]
    items: list[Any]
    labels: list[Any]


@dataclass(frozen=True)
class Said:
    """One model's answers to all items: scores as `Answer` has them, and what they come to."""

    model: str
    signature: str
    scores: list[np.ndarray]
    decisions: list[Any]
    truncated: int = 0


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Score the model on the task's examples; beside a tuned model also the simple ones, with paired tests."""
    classifier = Classifier(stage.model, stage.tokenizer)
    head = classifier.head
    examples, split = load_examples(task, stage, SHAPES)
    data = labelled(head, examples)
    with stage.evaluating():
        report = stage.progress(task, "texts")
        asked = task.batch_size * (head.max_length or 1) if "batch_size" in task.model_fields_set else None
        answers = classifier.answers(data.items, report, asked)
    decisions = [classifier.decide(answer) for answer in answers]
    truncated = sum(answer.truncated for answer in answers)
    about_length = f"max_length:{head.max_length}|stride:{head.stride}|{stage.arithmetic}"
    ours = Said(stage.label, about_length, [answer.scores for answer in answers], decisions, truncated)
    said = [ours, *_simple(task, stage, classifier, data)]
    scores: list[Score] = []
    for one in said:
        scores += _scored(task, stage, split, head, data, one, ours)
        _write(task, stage, split, head, data, one)
    return scores


# ---------------------------------------------------------------------- data
def labelled(head: Head, examples: Sequence[Example]) -> Labelled:
    """Items and their labels under the head's names.

    Raises:
        UserError: texts where tags are wanted, or a label that the head has not.
    """
    words = head.kind == TOKEN
    items, labels = [], []
    for example in examples:
        if ("tokens" in example.data) != words:
            raise UserError(
                Problem(
                    f"{example.id} has {'no tokens' if words else 'tokens, and the model takes texts'}", field="data"
                )
            )
        items.append(example.data["tokens"] if words else example.data["text"])
        labels.append(_label(head, example))
    return Labelled(list(examples), items, labels)


def _label(head: Head, example: Example) -> Any:
    value = named(example.data["tags" if head.kind == TOKEN else "label"], head.names)
    if head.kind == NUMERIC:
        number = as_number(value)
        if number is None:
            raise UserError(Problem(f"{example.id} has the label {value!r}, which is no number", field="data"))
        return number
    several = head.kind in (MULTI, TOKEN)
    names = [name_of(one) for one in (value if isinstance(value, list) else [value])]
    unknown = next((name for name in names if name not in head.labels), None)
    if unknown is not None or (isinstance(value, list) and not several):
        message = f"{example.id} has the label {unknown or value}, which the model does not know"
        raise UserError(Problem(message, field="data", hint=f"it knows {', '.join(head.labels[:20])}"))
    return names if several else names[0]


# ---------------------------------------------------------------------- simple models
def _simple(task: EvaluationTask, stage: Stage, classifier: Classifier, data: Labelled) -> list[Said]:
    """The answers of models that are fitted on the training split in a moment."""
    if stage.label != PROMISED or stage.train_split is None:
        return []
    head = classifier.head
    train = labelled(head, stage.train_split(SHAPES))
    stage.say(f"{task.name}: fitting simple models on the same {len(train.items):,} training examples")
    models: list[Simple] = fit(head, train.items, train.labels, stage.seed)
    found = []
    for model in models:
        scores = model.scores(data.items)
        found.append(Said(model.name, model.signature, scores, [_decide(head, one) for one in scores]))
    return found


def _decide(head: Head, scores: np.ndarray) -> Any:
    """As `Classifier.decide`, with one threshold for all labels."""
    if head.kind == NUMERIC:
        return float(scores[0])
    if head.kind == MULTI:
        return [head.labels[place] for place in np.flatnonzero(scores >= 0.5).tolist()]
    if head.kind == TOKEN:
        return [head.labels[place] for place in scores.argmax(axis=-1).tolist()]
    return head.labels[int(scores.argmax())]


# ---------------------------------------------------------------------- scores
def measure(head: Head, data: Labelled, said: Said, places: Sequence[int] | None = None) -> list[Measurement]:
    """All that can be measured of such answers, over the items at `places` (all by default)."""
    chosen = range(len(data.items)) if places is None else places
    decisions, labels = [said.decisions[i] for i in chosen], [data.labels[i] for i in chosen]
    scores = [said.scores[i] for i in chosen]
    if head.kind == NUMERIC:
        return numeric_measurements(decisions, labels)
    if head.kind == TOKEN:
        return _of_tags(head, decisions, labels)
    number = {name: place for place, name in enumerate(head.labels)}
    if head.kind == MULTI:
        flags = [np.array([[name in names for name in head.labels] for names in side]) for side in (decisions, labels)]
        found = label_measurements(flags[0], flags[1])
        varied = (flags[1].any(axis=0) & ~flags[1].all(axis=0)).any()
        return [*found, label_roc_auc(np.stack(scores), flags[1])] if varied else found
    expected = [number[label] for label in labels]
    probabilities = np.stack(scores)
    found = class_measurements([number[one] for one in decisions], expected, number.values())
    if len(set(expected)) > 1:
        found.append(roc_auc(probabilities, expected))
    return [*found, expected_calibration_error(probabilities, expected)]


def _of_tags(head: Head, decisions: Sequence[list[str]], labels: Sequence[list[str]]) -> list[Measurement]:
    """Entity F1 where the tags are of entities; the share of right words. Sentences are the items."""
    words = word_accuracy(decisions, labels)
    return [entity_f1(decisions, labels), words] if head.scheme is not None else [words]


def _scored(
    task: EvaluationTask, stage: Stage, split: str, head: Head, data: Labelled, said: Said, ours: Said
) -> list[Score]:
    about = {**stage.about(task, split), "model": said.model}
    measured = _wanted(task, measure(head, data, said))
    scores = scores_of(measured, about, signature=said.signature)
    if said is not ours:
        for score, theirs, mine in zip(scores, measured, _wanted(task, measure(head, data, ours)), strict=True):
            score["difference"] = _difference(head, data, theirs, mine, said, ours)
    for value, places in slices_of(task, data.examples).items():
        where = {**about, "slice": {"column": task.slice_by, "value": value}}
        scores += scores_of(_wanted(task, measure(head, data, said, places)), where, signature=said.signature)
    return scores


def _wanted(task: EvaluationTask, found: Sequence[Measurement]) -> list[Measurement]:
    """The task's metrics, or all. Raises UserError for one that answers of this kind don't have."""
    if not task.metrics:
        return list(found)
    known = {one.name: one for one in found}
    for name in task.metrics:
        if name not in known:
            raise UserError(
                Problem(f"there is no {name} of these labels; there are {', '.join(known)}", field="metrics")
            )
    return [known[name] for name in task.metrics]


def _difference(
    head: Head, data: Labelled, theirs: Measurement, mine: Measurement, said: Said, ours: Said
) -> dict[str, Any]:
    """The model less a simple one: with its interval, and the p-value of a paired test on the same items."""
    found = statistics.compare(theirs, mine)
    if head.kind == SINGLE and mine.name == "accuracy":
        right = [[a == b for a, b in zip(one.decisions, data.labels, strict=True)] for one in (said, ours)]
        only_theirs = sum(a and not b for a, b in zip(*right, strict=True))
        only_ours = sum(b and not a for a, b in zip(*right, strict=True))
        p, test = statistics.mcnemar_exact(only_theirs, only_ours), "mcnemar, exact"
    elif found.p_randomization is not None:
        p, test = found.p_randomization, "approximate randomization"
    else:
        p, test = found.p_bootstrap, "paired bootstrap"
    return {"value": found.difference, "ci95": [found.low, found.high], "p_value": p, "test": test}


# ---------------------------------------------------------------------- what is written beside the scores
def _write(task: EvaluationTask, stage: Stage, split: str, head: Head, data: Labelled, said: Said) -> None:
    """samples.jsonl: one line an item; details.json: where the model is right and wrong."""
    about = {**stage.about(task, split), "model": said.model}
    number = {name: place for place, name in enumerate(head.labels)}
    records = []
    for example, item, label, decision, scores in zip(
        data.examples, data.items, data.labels, said.decisions, said.scores, strict=True
    ):
        record: dict[str, Any] = {
            **about,
            "id": example.id,
            "prompt": item if isinstance(item, str) else " ".join(item),
        }
        record |= {"label": label, "prediction": decision}
        if head.kind == TOKEN:
            record |= {"reference": shown(head, item, label), "output": shown(head, item, decision)}
        elif head.kind != NUMERIC:
            record["probabilities"] = [round(float(score), 6) for score in scores]
        if head.kind == SINGLE:
            record["label_id"] = number[label]
        if head.kind != NUMERIC:
            record["metrics"] = {"accuracy": float(label == decision)}
        records.append(record)
    replace_lines(stage.out_dir / SAMPLES, records, name=task.name, model=said.model)
    details = diagnose(head, data.items, data.labels, said.decisions, said.scores, [one.id for one in data.examples])
    write_details(stage.out_dir, task.name, said.model, {**details, "truncated": said.truncated})
