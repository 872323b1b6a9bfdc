"""A classifier's answers: texts or sentences of words in, probabilities out; what evaluation and `predict` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignkit.data.windows import Cut, cut
from alignkit.evaluation.memory import halved_when_full
from alignkit.examples.labels import CONFIG_KEY, MULTI, NUMERIC, SINGLE, TOKEN, Head, Kind
from alignkit.trainers.classify import padded

Item = str | Sequence[str]
TOKENS_AT_ONCE = {"cpu": 1024}
"""Tokens of a batch, padding among them, by device: on a CPU as many as its caches hold the activations of."""
MANY_TOKENS = 16_384  # on accelerators
LONGEST = 512  # tokens, where neither model nor tokenizer says how many they take


def head_of(model: Any, tokenizer: Any) -> Head:
    """What a loaded classifier answers: alignkit's own word in its config, else transformers' (of any checkpoint)."""
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    stored = getattr(config, CONFIG_KEY, None)
    names = tuple(str(config.id2label[number]) for number in sorted(config.id2label))
    if isinstance(stored, Mapping):
        return Head.restored({**stored, "labels": names})
    architecture = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or LONGEST
    length = min(int(positions), LONGEST, int(min(tokenizer.model_max_length, 10**9)))
    if architecture.endswith("ForTokenClassification"):
        return Head(
            TOKEN, names, length, scheme="IOB1" if any(name.startswith(("B-", "I-")) for name in names) else None
        )
    kind: Kind = config.problem_type or (NUMERIC if len(names) == 1 else SINGLE)
    return Head(kind, names, length, thresholds=(0.5,) * len(names) if kind == MULTI else ())


@dataclass(frozen=True)
class Answer:
    """What a model says of one item. `truncated`: it has not seen its end.

    `scores`: of a text (L,), of a sentence (W, L): probabilities (of a numeric target, the number itself). A word that
    the model has not seen has a row of zeros.
    """

    scores: np.ndarray
    truncated: bool


class Classifier:
    """A model with its tokenizer and what its head means."""

    def __init__(self, model: Any, tokenizer: Any, head: Head | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.head = head_of(model, tokenizer) if head is None else head
        self.device = next(model.parameters()).device

    # ------------------------------------------------------------------ scores
    def answers(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None, at_once: int | None = None
    ) -> list[Answer]:
        """The answer to each item, in order. The model should be in evaluation mode.

        Args:
            progress: told (windows done, all windows).
            at_once: tokens of a batch, padding among them; by default what suits the device.
        """
        cuts = cut(self.tokenizer, items, self.head.max_length, self.head.stride)
        at_once = at_once or TOKENS_AT_ONCE.get(self.device.type, MANY_TOKENS)
        windows = [window for one in cuts for window in one.windows]
        logits: list[np.ndarray] = [np.zeros(0)] * len(windows)
        done = 0
        for batch in by_length([len(window.input_ids) for window in windows], at_once):
            for places, found in halved_when_full(lambda some: self._logits([windows[i] for i in some]), batch):
                for place, one in zip(places, found, strict=True):
                    logits[place] = one
                done += len(places)
                if progress is not None:
                    progress(done, len(windows))
        merged, first = [], 0
        for item, one in zip(items, cuts, strict=True):
            last = first + len(one.windows)
            merged.append(Answer(self._merged(item, one, logits[first:last]), one.truncated))
            first = last
        return merged

    @torch.inference_mode()
    def _logits(self, windows: Sequence[Any]) -> list[np.ndarray]:
        """Of each window: (L,), or of words (W, L) at their first pieces."""
        batch = padded([window.input_ids for window in windows], self.tokenizer.pad_token_id or 0)
        if bool(batch["attention_mask"].all()):
            del batch["attention_mask"]  # nothing is padded: attention is faster without a mask
        out = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})
        logits = out.logits.float().cpu().numpy()
        if self.head.kind != TOKEN:
            return list(logits)
        return [row[window.firsts] for row, window in zip(logits, windows, strict=True)]

    def _merged(self, item: Item, one: Cut, logits: list[np.ndarray]) -> np.ndarray:
        """The windows' logits as one answer: of a text their mean, of a word those where it stands deepest inside."""
        if self.head.kind != TOKEN:
            return self._scores(np.mean(logits, axis=0, dtype=np.float64))
        merged = np.zeros((len(item), len(self.head.labels)))
        depth: np.ndarray = np.full(len(item), -1)
        for window, found in zip(one.windows, logits, strict=True):
            inside = np.minimum(window.firsts, len(window.input_ids) - 1 - window.firsts)
            better = inside > depth[window.words]
            merged[window.words[better]] = found[better]
            depth[window.words[better]] = inside[better]
        scores = self._scores(merged)
        scores[depth < 0] = 0.0
        return scores

    def _scores(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, as `transformers.pipeline` makes them."""
        logits = logits.astype(np.float64)
        if self.head.kind == NUMERIC:
            return logits
        if self.head.kind == MULTI:
            return 0.5 * (1 + np.tanh(logits / 2))  # the logistic function, without overflow
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    # ------------------------------------------------------------------ decisions
    @property
    def thresholds(self) -> np.ndarray:
        """From which probability each of several labels holds, (L,)."""
        return np.array(self.head.thresholds or (0.5,) * len(self.head.labels))

    @property
    def outside(self) -> str:
        """The tag of a word that the model has not seen."""
        return "O" if "O" in self.head.labels else self.head.labels[0]

    def decide(self, answer: Answer) -> Any:
        """A name, the names that hold, a number, or the tags of a sentence."""
        labels, scores = self.head.labels, answer.scores
        if self.head.kind == NUMERIC:
            return float(scores[0])
        if self.head.kind == MULTI:
            return [labels[place] for place in np.flatnonzero(scores >= self.thresholds).tolist()]
        if self.head.kind == TOKEN:
            best, seen = scores.argmax(axis=-1).tolist(), np.asarray(scores.any(axis=-1)).tolist()
            return [labels[place] if known else self.outside for place, known in zip(best, seen, strict=True)]
        return labels[int(scores.argmax())]


def by_length(lengths: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Places in batches of about equal lengths, the longest first, each of `at_once` tokens at most (or of one row)."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    first = 0
    while first < len(order):
        rows = max(1, at_once // max(1, lengths[order[first]]))
        yield order[first : first + rows]
        first += rows
