"""Perplexity, bits per byte and token accuracy: exp of all nats over all tokens, never an average of averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.data.render import IGNORED, Renderer
from alignkit.errors import Problem, RunFailed, UserError
from alignkit.evaluation.likelihood import Document, Likelihood, context_of, likelihoods
from alignkit.evaluation.scores import DOCUMENTS, Score, replace_lines, scores_of
from alignkit.evaluation.stage import Stage, load_examples, slices_of
from alignkit.examples import Dropped, Example
from alignkit.metrics import Measurement, get
from alignkit.metrics.measurement import mean_formula

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask

SHAPES = ("language_modeling", "prompt_completion")
METRICS = ("perplexity", "bits_per_byte", "token_accuracy")
LONGEST_WINDOW = 8192
"""Windows of long-context models are cut here unless the task says otherwise: attention's cost is quadratic."""
WINDOW_WITHOUT_CONTEXT = 2048


@dataclass(frozen=True)
class Text:
    """An example as a document, and the UTF-8 bytes of what is scored of it."""

    example: Example
    document: Document
    size: int


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Score the task's texts: plain texts as wholes, chats and completions by the tokens that training would learn."""
    wanted = _metrics(task)
    max_length, stride = _windows(task, stage)
    examples, split = load_examples(task, stage, SHAPES)
    texts = as_documents(examples, stage.tokenizer, stage.loss_on)
    if len(texts) < len(examples):
        stage.say(f"{task.name}: {len(examples) - len(texts):,} examples without a token to score are left out")
    if not texts:
        raise UserError(Problem("no token is left to score", field="data"))
    with stage.evaluating():
        found = likelihoods(
            stage.model,
            [text.document for text in texts],
            max_length=max_length,
            stride=stride,
            batch_size=task.batch_size,
            progress=stage.progress(task, "windows"),
        )
    for text, likelihood in zip(texts, found, strict=True):
        if not np.isfinite(likelihood.nats):
            what = f"the likelihood of {text.example.id} under the {stage.label} model is not finite"
            raise RunFailed(f"evaluation {task.name}: {what}")
    _write_documents(task, stage, split, texts, found)
    signature = "|".join(
        [
            f"first:{_prefix_name(stage.tokenizer)}",
            f"max_length:{max_length}",
            f"stride:{stride}",
            f"loss_on:{stage.loss_on or 'default'}",
            stage.arithmetic,
        ]
    )
    about = stage.about(task, split)
    scores = scores_of(measure(wanted, texts, found), about, signature=signature)
    for value, places in slices_of(task, [text.example for text in texts]).items():
        part = measure(wanted, [texts[i] for i in places], [found[i] for i in places])
        scores += scores_of(part, {**about, "slice": {"column": task.slice_by, "value": value}}, signature=signature)
    return scores


def measure(names: Sequence[str], texts: Sequence[Text], found: Sequence[Likelihood]) -> list[Measurement]:
    """The named measurements, documents as items."""
    nats = [one.nats for one in found]
    tokens = [one.tokens for one in found]
    made = []
    for name in names:
        if name == "token_accuracy":
            columns = np.array([[one.correct, one.tokens] for one in found], dtype=float)
            made.append(Measurement(name, "version:alignkit-1", True, columns, mean_formula))
        else:
            made.append(get(name).measure(nats, [text.size for text in texts] if name == "bits_per_byte" else tokens))
    return made


def as_documents(examples: Sequence[Example], tokenizer: Any, loss_on: str | None = None) -> list[Text]:
    """Examples as tokens. A plain text is scored whole, after BOS (else EOS; else from its second token on).

    Chats and completions are rendered as in training, and the tokens scored are those that training would learn: by
    default the assistant's turns with their stop tokens. Examples without such a token are left out.
    """
    plain = [example for example in examples if "text" in example.data]
    rendered = Renderer(tokenizer, loss_on).render([example for example in examples if "text" not in example.data])
    first = first_token(tokenizer)
    encoded = iter(_encode(tokenizer, [example.data["text"] for example in plain]))
    others = iter(rendered)
    texts = []
    for example in examples:
        if "text" in example.data:
            ids = np.array([*([] if first is None else [first]), *next(encoded)], dtype=np.int64)
            scored = np.arange(len(ids)) > 0
            size = len(example.data["text"].encode())
        else:
            item = next(others)
            if isinstance(item, Dropped):
                continue
            ids, scored = item.input_ids, item.labels != IGNORED
            size = len(tokenizer.decode(ids[scored].tolist(), skip_special_tokens=True).encode())
        if scored[1:].any():
            texts.append(Text(example, Document(example.id, ids, scored), size))
    return texts


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids without special tokens."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def first_token(tokenizer: Any) -> int | None:
    """What stands before each plain text, so that its first token is predicted too: BOS, else EOS."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def _prefix_name(tokenizer: Any) -> str:
    first = first_token(tokenizer)
    return "none" if first is None else str(tokenizer.convert_ids_to_tokens(first))


def _metrics(task: EvaluationTask) -> list[str]:
    names = list(dict.fromkeys(task.metrics)) or list(METRICS)
    for name in names:
        if name not in METRICS:
            raise UserError(Problem(f"perplexity tasks know {', '.join(METRICS)}, not {name}", field="metrics"))
    return names


def _windows(task: EvaluationTask, stage: Stage) -> tuple[int, int]:
    """The window and the stride in tokens."""
    context = context_of(stage.model, stage.tokenizer)
    max_length = task.max_length or min(context or WINDOW_WITHOUT_CONTEXT, LONGEST_WINDOW)
    if context is not None and max_length > context:
        raise UserError(Problem(f"the model takes {context} tokens, not {max_length}", field="max_length"))
    stride = task.stride or max(1, max_length // 2)
    if stride > max_length:
        raise UserError(Problem(f"a stride of {stride} skips tokens: the window has {max_length}", field="stride"))
    return max_length, stride


def _write_documents(
    task: EvaluationTask, stage: Stage, split: str, texts: Sequence[Text], found: Sequence[Likelihood]
) -> None:
    """documents.jsonl: each document's sums, from which any of the scores and any paired test can be made again."""
    records = (
        {
            **stage.about(task, split),
            "id": text.example.id,
            "nats": one.nats,
            "tokens": one.tokens,
            "bytes": text.size,
            "correct": one.correct,
        }
        for text, one in zip(texts, found, strict=True)
    )
    replace_lines(stage.out_dir / DOCUMENTS, records, name=task.name, model=stage.label)
