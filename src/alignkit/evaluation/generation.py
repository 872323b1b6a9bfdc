"""The generation task: prompts completed by the model, and the completions held against references."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.evaluation import vllm
from alignkit.evaluation.fingerprints import fingerprint_of
from alignkit.evaluation.generate import (
    Completion,
    Generator,
    Settings,
    TransformersGenerator,
    batches_of,
    rows_for,
)
from alignkit.evaluation.likelihood import context_of
from alignkit.evaluation.memory import halved_when_full
from alignkit.evaluation.prompts import Prompt, as_prompts
from alignkit.evaluation.scores import SAMPLES, Score, replace_lines, scores_of
from alignkit.evaluation.stage import Stage, load_examples, slices_of
from alignkit.evaluation.store import Store
from alignkit.metrics import Measurement, expand, get
from alignkit.metrics import measure as measure_texts
from alignkit.metrics.measurement import mean_of

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask

SHAPES = ("prompt_completion", "language_modeling", "prompt_only")
VERSION = 1  # of prompts and completions on disk: raise it when either would come out differently


@dataclass(frozen=True)
class Item:
    """A prompt and what the model made of it."""

    prompt: Prompt
    completions: list[Completion]


@dataclass(frozen=True)
class Answers:
    """What a model made of a task's prompts; how, as a signature; and the name of their split."""

    items: list[Item]
    split: str
    signature: str


def answers_of(task: EvaluationTask, stage: Stage, settings: Settings, names: Sequence[str] = ()) -> Answers:
    """Complete the task's prompts: those that an earlier start completed are not done again.

    Args:
        names: metrics, for which the prompts must have references.

    Raises:
        UserError: no prompt is left, or a reference is missing.
    """
    examples, split = load_examples(task, stage, SHAPES)
    prompts = as_prompts(examples, stage.tokenizer)
    if len(prompts) < len(examples):
        stage.say(f"{task.name}: {len(examples) - len(prompts):,} examples can't be rendered as prompts; left out")
    _check_references(names, prompts)
    items = _complete(task, stage, settings, prompts)
    if not items:
        raise UserError(Problem("no prompt is left that fits the model's context", field="data"))
    left_out = len(prompts) - len(items)
    generator = f"{settings.signature(stage.seed)}|{stage.arithmetic}" + ("|engine:vllm" if task.use_vllm else "")
    return Answers(items, split, f"{generator}|left_out:{left_out}" if left_out else generator)


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Complete the task's prompts, score, write samples."""
    settings = Settings.of(task.generation.arguments())
    names = expand(task.metrics)
    answers = answers_of(task, stage, settings, names)
    items, signature = answers.items, answers.signature
    about = stage.about(task, answers.split)
    measurements = [*measure(names, items, task.answer), *shares(items)]
    clusters = [item.prompt.example.id for item in items for _ in item.completions] if settings.samples > 1 else None
    scores = _scored(measurements, about, signature, clusters)
    for value, places in slices_of(task, [item.prompt.example for item in items]).items():
        part = [items[place] for place in places]
        rows = [item.prompt.example.id for item in part for _ in item.completions] if settings.samples > 1 else None
        where = {**about, "slice": {"column": task.slice_by, "value": value}}
        scores += _scored([*measure(names, part, task.answer), *shares(part)], where, signature, rows)
    _write_samples(task, stage, about, items, measurements)
    return scores


# ---------------------------------------------------------------------- completing
def _complete(task: EvaluationTask, stage: Stage, settings: Settings, prompts: Sequence[Prompt]) -> list[Item]:
    """Every prompt that fits, with its completions, in order."""
    here = TransformersGenerator(stage.model, stage.tokenizer)
    stops = here.stop_ids(settings)
    generator = _vllm(task, stage, stops) if task.use_vllm else here
    context = context_of(stage.model, stage.tokenizer)
    rows = rows_for(vllm.ROWS if task.use_vllm else task.batch_size, settings)
    lengths = [len(prompt.ids) for prompt in prompts]
    batches = batches_of(lengths, rows, settings.max_new_tokens, context)
    fitting = sorted(place for batch in batches for place in batch.places)
    if len(fitting) < len(prompts):
        count = len(prompts) - len(fitting)
        stage.say(f"{task.name}: {count:,} prompts fill the model's context of {context:,} tokens; left out")
    shape = [settings.fields, stops, rows, context, stage.seed if settings.is_random else None]
    shape += ["vllm", task.vllm] if task.use_vllm else []
    parts = [VERSION, stage.label, stage.weights, stage.arithmetic, shape, *(prompt.ids for prompt in prompts)]
    store = Store(stage.out_dir, f"{task.name}-{stage.label}", fingerprint_of(parts))
    if store.done:
        stage.say(f"{task.name} ({stage.label}): {len(store.done):,} of {len(fitting):,} prompts were done before")
    with stage.evaluating():
        _fill(store, generator, settings, prompts, batches, stage, stage.progress(task, "prompts"))
    return [Item(prompts[place], store.done[place]) for place in fitting]


def _vllm(task: EvaluationTask, stage: Stage, stops: Sequence[int]) -> Generator:
    dtype = stage.arithmetic.removeprefix("dtype:")
    return vllm.VllmGenerator(stage.place, stage.tokenizer, stops, dtype, task.vllm)


def _fill(
    store: Store,
    generator: Generator,
    settings: Settings,
    prompts: Sequence[Prompt],
    batches: Sequence[Any],
    stage: Stage,
    progress: Any,
) -> None:
    """Complete the batches, and parts of batches, that the store lacks."""
    total = sum(len(batch.places) for batch in batches)
    for batch in batches:
        missing = [place for place in batch.places if place not in store.done]
        if not missing:
            continue

        def complete(places: Sequence[int], most: int = batch.max_new_tokens) -> list[list[Completion]]:
            # The seed follows from the batch, not from what ran before it: a resumed evaluation draws the same samples.
            seed = zlib.crc32(f"{stage.seed}:{places[0]}".encode())
            return generator.complete([prompts[i].ids for i in places], settings, max_new_tokens=most, seed=seed)

        for places, completions in halved_when_full(complete, missing):
            store.add(places, completions)
        progress(len(store.done), total)
    store.finish()


# ---------------------------------------------------------------------- scoring
def measure(names: Sequence[str], items: Sequence[Item], answer: str | None) -> list[Measurement]:
    """The named metrics over all completions, each of them one item; pass@k takes a prompt's completions together."""
    predictions = [completion.text for item in items for completion in item.completions]
    references = [item.prompt.references for item in items for _ in item.completions]
    texts = [name for name in names if get(name).needs in ("texts", "generated")]
    found = {one.name: one for one in measure_texts(texts, predictions, references, options={"answer": answer})}
    for name in names:
        if get(name).needs == "samples":
            found[name] = get(name).measure(_flags(names, items, predictions, references, answer))
    return [found[name] for name in names]


def _flags(
    names: Sequence[str],
    items: Sequence[Item],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    answer: str | None,
) -> list[list[bool]]:
    """Right or wrong, for each completion of each prompt: by numeric_match if the task has it, else by exact_match."""
    matcher = get("numeric_match" if "numeric_match" in names else "exact_match")
    right = iter(matcher.measure(predictions, references, answer=answer).items > 0.5)
    return [[bool(next(right)) for _ in item.completions] for item in items]


def _scored(
    measurements: Sequence[Measurement], about: dict[str, Any], signature: str, clusters: Sequence[str] | None
) -> list[Score]:
    rows = len(clusters) if clusters is not None else 0
    together = [one for one in measurements if one.n == rows or clusters is None]
    alone = [one for one in measurements if not (one.n == rows or clusters is None)]
    scores = scores_of(together, about, signature=signature, clusters=clusters) if together else []
    scores += scores_of(alone, about, signature=signature) if alone else []
    order = [one.name for one in measurements]
    return sorted(scores, key=lambda score: order.index(score["metric"]))


def shares(items: Sequence[Item]) -> list[Measurement]:
    """How many completions were cut off at max_new_tokens, and how many say nothing: scores as well."""
    every = [completion for item in items for completion in item.completions]
    cut = np.array([completion.finish == "length" for completion in every])
    empty = np.array([not completion.text.strip() for completion in every])
    version = "version:alignkit-1"
    return [
        mean_of("truncated_share", cut, version, higher_is_better=False, right_or_wrong=True),
        mean_of("empty_share", empty, version, higher_is_better=False, right_or_wrong=True),
    ]


def _check_references(names: Sequence[str], prompts: Sequence[Prompt]) -> None:
    needing = [name for name in names if get(name).needs in ("texts", "samples")]
    unfit = [name for name in names if get(name).needs not in ("texts", "generated", "samples")]
    if unfit:
        raise UserError(Problem(f"{unfit[0]} is no metric of generated text", field="metrics"))
    without = next((prompt for prompt in prompts if not prompt.references), None)
    if needing and without is not None:
        have = ", ".join(without.example.row.data)
        hint = "map a column: columns: {answer: THEIR_NAME}"
        message = f"{needing[0]} needs a reference, and {without.example.id} has none; its columns: {have}"
        raise UserError(Problem(message, field="data", hint=hint))


def _write_samples(
    task: EvaluationTask,
    stage: Stage,
    about: dict[str, Any],
    items: Sequence[Item],
    measurements: Sequence[Measurement],
) -> None:
    """samples.jsonl: one line a completion, with what each metric says of it alone."""
    rows = sum(len(item.completions) for item in items)
    by_row = {one.name: one.items for one in measurements if one.n == rows}
    records: list[dict[str, Any]] = []
    for item in items:
        for number, completion in enumerate(item.completions):
            place = len(records)
            record = {
                **about,
                "id": item.prompt.example.id,
                "prompt": item.prompt.text,
                "references": item.prompt.references,
                "prediction": completion.text,
                "metrics": {name: round(float(values[place]), 6) for name, values in by_row.items()},
                "tokens": completion.tokens,
                "finish": completion.finish,
            }
            records.append(record if len(item.completions) == 1 else {**record, "sample": number})
    replace_lines(stage.out_dir / SAMPLES, records, name=task.name, model=stage.label)
