"""How often the better of two answers is preferred: by a reward model's rewards, or by a language model's likelihoods.

Beside the accuracy, what its number hides: how well "the longer answer wins" would do on the same pairs, how rewards
follow length, whether the confidence is deserved, and the worst mistakes. `details.json` holds them for the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.data.pairs import PairRenderer, side_of
from alignkit.data.render import IGNORED, Rendered, Renderer
from alignkit.errors import Problem, RunFailed, UserError
from alignkit.evaluation.likelihood import Document, context_of, likelihoods
from alignkit.evaluation.perplexity import LONGEST_WINDOW
from alignkit.evaluation.rewards import is_reward_model, rewards_of
from alignkit.evaluation.scores import Score, scores_of, write_details
from alignkit.evaluation.stage import Stage, load_examples, slices_of
from alignkit.examples import Dropped, Example
from alignkit.metrics.preference import preference_accuracy

if TYPE_CHECKING:
    from alignkit.recipe import EvaluationTask

SHAPES = ("preference",)
METRIC = "preference_accuracy"
LONGER_WINS = "longer_wins"
BUCKETS = 3  # of length and of margin
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BINS = 20
WORST = 10
CHARACTERS = 600  # of one text in the list of mistakes
MOST_LISTED = 5000  # pairs whose likelihoods are kept one by one


@dataclass(frozen=True)
class Pair:
    """One pair: its example, its two sides as token ids, and the length of each answer in characters."""

    example: Example
    chosen: Any
    rejected: Any
    lengths: tuple[int, int]


@dataclass(frozen=True)
class Judged:
    """What a model says of pairs, (N,) each: what it gives the two answers, and the answers' tokens."""

    chosen: np.ndarray
    rejected: np.ndarray
    tokens: np.ndarray | None = None  # (N, 2)

    @property
    def margins(self) -> np.ndarray:
        return self.chosen - self.rejected


def evaluate(task: EvaluationTask, stage: Stage) -> list[Score]:
    """Score the task's pairs; the share in which the chosen answer comes out ahead, a tie counting half."""
    if unknown := [name for name in task.metrics if name != METRIC]:
        raise UserError(Problem(f"{unknown[0]} is not measured here; there is {METRIC}", field="metrics"))
    examples, split = load_examples(task, stage, SHAPES)
    by_reward = is_reward_model(stage.model)
    length = task.max_length or min(context_of(stage.model, stage.tokenizer) or LONGEST_WINDOW, LONGEST_WINDOW)
    with stage.evaluating():
        pairs, judged = (_by_rewards if by_reward else _by_likelihood)(task, stage, examples, length)
    if not (np.isfinite(judged.chosen).all() and np.isfinite(judged.rejected).all()):
        raise RunFailed(f"evaluation {task.name}: the {stage.label} model gives an answer no finite number")
    about = stage.about(task, split)
    signature = f"by:{'reward' if by_reward else 'log_likelihood'}|max_length:{length}|{stage.arithmetic}"
    scores = scores_of([preference_accuracy(judged.chosen, judged.rejected)], about, signature=signature)
    for (column, value), places in _slices(task, pairs).items():
        part = preference_accuracy(judged.chosen[places], judged.rejected[places])
        scores += scores_of([part], {**about, "slice": {"column": column, "value": value}}, signature=signature)
    longer = np.array([pair.lengths for pair in pairs], dtype=float)
    blind = preference_accuracy(longer[:, 0], longer[:, 1])
    scores += scores_of([blind], {**about, "model": LONGER_WINS}, signature="length:characters")
    details = _details(pairs, judged) if by_reward else _likelihood_details(judged)
    write_details(stage.out_dir, task.name, stage.label, {"task": task.task, "split": split, **details})
    return scores


# ---------------------------------------------------------------------- judging
def _by_rewards(
    task: EvaluationTask, stage: Stage, examples: Sequence[Example], length: int
) -> tuple[list[Pair], Judged]:
    renderer = PairRenderer(stage.tokenizer, "whole", length)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for example, row in zip(examples, renderer.render(examples), strict=True):
        if isinstance(row, Dropped):
            dropped[row.reason] += 1
            continue
        pairs.append(Pair(example, row.columns["chosen_ids"], row.columns["rejected_ids"], _lengths(example)))
    _tell(task, stage, dropped, pairs)
    sequences = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    found = rewards_of(
        stage.model,
        sequences,
        stage.tokenizer.pad_token_id,
        batch_size=task.batch_size,
        progress=stage.progress(task, "answers"),
    )
    return pairs, Judged(found[0::2], found[1::2])


def _by_likelihood(
    task: EvaluationTask, stage: Stage, examples: Sequence[Example], length: int
) -> tuple[list[Pair], Judged]:
    """By the log-probability of each whole answer given its prompt."""
    renderer = Renderer(stage.tokenizer, "completion", length)
    sides = [renderer.render([side_of(example, word) for example in examples]) for word in ("chosen", "rejected")]
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for example, chosen, rejected in zip(examples, *sides, strict=True):
        reason = next((side.reason for side in (chosen, rejected) if isinstance(side, Dropped)), None)
        if reason is None:
            pairs.append(Pair(example, _document(chosen), _document(rejected), _lengths(example)))
        else:
            dropped[reason] += 1
    _tell(task, stage, dropped, pairs)
    found = likelihoods(
        stage.model,
        [document for pair in pairs for document in (pair.chosen, pair.rejected)],
        max_length=length,
        stride=length,
        batch_size=task.batch_size,
        progress=stage.progress(task, "answers"),
    )
    nats = np.array([one.nats for one in found])
    tokens = np.array([one.tokens for one in found]).reshape(-1, 2)
    return pairs, Judged(-nats[0::2], -nats[1::2], tokens)


def _document(side: Rendered | Dropped) -> Document:
    assert isinstance(side, Rendered)
    return Document(side.id, side.input_ids, side.labels != IGNORED)


def _tell(task: EvaluationTask, stage: Stage, dropped: Counter[str], pairs: Sequence[Pair]) -> None:
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        stage.say(f"{task.name}: {dropped.total():,} pairs left out ({reasons})")
    if not pairs:
        raise UserError(Problem("no pair is left to judge", field="data"))


def _lengths(example: Example) -> tuple[int, int]:
    return len(said(example.data["chosen"])), len(said(example.data["rejected"]))


def said(value: Any) -> str:
    """What an answer or a prompt says: its text, or its messages' one below the other."""
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)


# ---------------------------------------------------------------------- parts of the data
def _slices(task: EvaluationTask, pairs: Sequence[Pair]) -> dict[tuple[str, str], list[int]]:
    """Places of pairs by the length of their answers, by which is longer, by the data's own margin, by `slice_by`."""
    found: dict[tuple[str, str], list[int]] = {}
    for value, places in slices_of(task, [pair.example for pair in pairs]).items():
        found[str(task.slice_by), value] = places
    longest = np.array([max(pair.lengths) for pair in pairs], dtype=float)
    found |= _thirds("characters of the longer answer", longest)
    words = ("chosen", "rejected", "neither")
    for place, pair in enumerate(pairs):
        chosen, rejected = pair.lengths
        found.setdefault(("the longer answer", words[0 if chosen > rejected else 1 if chosen < rejected else 2]), [])
        found["the longer answer", words[0 if chosen > rejected else 1 if chosen < rejected else 2]].append(place)
    margins = [_margin(pair.example) for pair in pairs]
    if None not in margins:
        found |= _thirds("the data's margin", np.array(margins, dtype=float))
    return found


def _thirds(column: str, values: np.ndarray) -> dict[tuple[str, str], list[int]]:
    """Places in buckets of about equal size; none where all values are alike."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BUCKETS + 1)[1:-1]))
    bucket = np.searchsorted(edges, values)
    made: dict[tuple[str, str], list[int]] = {}
    for number in np.unique(bucket):
        places = np.flatnonzero(bucket == number).tolist()
        low, high = values[places].min(), values[places].max()
        made[column, f"{low:g}" if low == high else f"{low:g} to {high:g}"] = places
    return made if len(made) > 1 else {}


def _margin(example: Example) -> float | None:
    """How much better the data say the chosen answer is."""
    data = example.data
    if "margin" in data:
        return float(data["margin"])
    if "score_chosen" in data and "score_rejected" in data:
        return float(data["score_chosen"]) - float(data["score_rejected"])
    return None


# ---------------------------------------------------------------------- what the report shows
def _details(pairs: Sequence[Pair], judged: Judged) -> dict[str, Any]:
    lengths = np.array([pair.lengths for pair in pairs], dtype=float)
    rewards = np.stack([judged.chosen, judged.rejected], axis=1)
    order = np.argsort(judged.margins, kind="stable")
    wrong = [int(place) for place in order[:WORST] if judged.margins[place] < 0]
    return {
        "kind": "reward",
        "n": len(pairs),
        "rewards": {
            word: {"mean": float(values.mean()), "sd": float(values.std())}
            for word, values in (("chosen", judged.chosen), ("rejected", judged.rejected))
        },
        "histogram": _histogram(judged),
        "length_correlation": _correlation(rewards.ravel(), lengths.ravel()),
        "margin_length_correlation": _correlation(judged.margins, lengths[:, 0] - lengths[:, 1]),
        "calibration": calibration(judged.margins),
        "worst": [_mistake(pairs[place], judged, place) for place in wrong],
    }


def _likelihood_details(judged: Judged) -> dict[str, Any]:
    assert judged.tokens is not None
    listed = [
        [round(float(chosen), 4), round(float(rejected), 4), int(first), int(second)]
        for chosen, rejected, (first, second) in zip(judged.chosen, judged.rejected, judged.tokens, strict=True)
    ]
    return {"kind": "likelihood", "n": len(listed), "log_probs": listed[:MOST_LISTED]}


def calibration(margins: np.ndarray) -> list[list[float]]:
    """[[confidence, share right, pairs], …]: what the model gives the answer it prefers, σ(|margin|) by the
    Bradley-Terry model, and how often that answer is the chosen one. A tie is half right."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = (np.sign(margins) + 1) / 2
    bucket = np.clip(np.searchsorted(CONFIDENCES, confidence, side="right") - 1, 0, len(CONFIDENCES) - 2)
    return [
        [
            float(confidence[bucket == number].mean()),
            float(right[bucket == number].mean()),
            int((bucket == number).sum()),
        ]
        for number in np.unique(bucket)
    ]


def _histogram(judged: Judged) -> list[list[float]]:
    """[[low, high, chosen, rejected], …]: rewards in bins of equal width."""
    every = np.concatenate([judged.chosen, judged.rejected])
    edges = np.histogram_bin_edges(every, BINS)
    counts = [np.histogram(values, edges)[0] for values in (judged.chosen, judged.rejected)]
    return [
        [float(low), float(high), int(chosen), int(rejected)]
        for low, high, chosen, rejected in zip(edges, edges[1:], *counts, strict=False)
    ]


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's r; None where either does not vary."""
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _mistake(pair: Pair, judged: Judged, place: int) -> dict[str, Any]:
    data = pair.example.data
    return {
        "id": pair.example.id,
        "prompt": said(data["prompt"])[-CHARACTERS:],
        "chosen": said(data["chosen"])[:CHARACTERS],
        "rejected": said(data["rejected"])[:CHARACTERS],
        "chosen_reward": float(judged.chosen[place]),
        "rejected_reward": float(judged.rejected[place]),
    }
