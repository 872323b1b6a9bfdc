"""What a model thinks of texts: the negative log-likelihood of each document, over sliding windows, batched.

Windows are those of transformers' perplexity guide: they begin every `stride` tokens, hold `max_length` tokens, and
each scores the tokens that no window before it has scored, so that every token is scored once and, from the second
window on, has at least `max_length - stride` tokens before it.

Three things make it fast. Windows of any document are batched by length. Rows are padded on the right and no attention
mask is given: under causal attention no real token sees the padding, and the mask-free kernels are the fast ones. The
output layer runs on the scored positions alone, so a window's context costs no logits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignkit.evaluation.attention import fast_attention, last_layer_from
from alignkit.evaluation.memory import halved_when_full
from alignkit.evaluation.threads import each_core_its_own, workers_for

CHUNK_ELEMENTS = 2**23
"""Logits turned into float32 at a time: 32 MiB."""
CPU_BATCH_TOKENS = 1024
"""More tokens at a time do not help a CPU, and leave its caches."""
BATCH_LOGITS = 2**28
"""Logits computed at a time; one window may need more."""


@dataclass(frozen=True)
class Document:
    """One text as tokens: `ids` (T,), and `scored` (T,), true where the token counts. The first has no context."""

    id: str
    ids: np.ndarray
    scored: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """Sums over one document's scored tokens: nats, tokens, and tokens that were the model's first choice."""

    nats: float
    tokens: int
    correct: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, end) go in; `targets` are the places of the tokens to score, each after start and up to end."""

    document: int
    start: int
    end: int
    targets: np.ndarray


def windows_of(index: int, document: Document, max_length: int, stride: int) -> Iterator[Window]:
    """The windows of one document, `max_length` tokens each (the guide's counting: context and targets together).

    With `stride == max_length` a window reaches back one token further, else its first token would go unscored.
    """
    scored = np.flatnonzero(document.scored)
    scored = scored[scored > 0]
    length, done = len(document.ids), 1
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        targets = scored[np.searchsorted(scored, done) : np.searchsorted(scored, end)]
        if len(targets):
            # The last target is not fed: nothing is predicted from it.
            yield Window(index, min(begin, done - 1), int(targets[-1]), targets)
        done = end
        if end == length:
            return


def likelihoods(
    model: Any,
    documents: Sequence[Document],
    *,
    max_length: int,
    stride: int,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Likelihood]:
    """Score each document; `progress(done, all)` counts windows. The model must be causal and in evaluation mode."""
    windows = [
        window for index, document in enumerate(documents) for window in windows_of(index, document, max_length, stride)
    ]
    windows.sort(
        key=lambda window: (window.start - window.end, len(window.targets))
    )  # longest first: memory shows early
    nats, tokens, correct = [0.0] * len(documents), [0] * len(documents), [0] * len(documents)
    done = 0
    most = CPU_BATCH_TOKENS if input_device(model).type == "cpu" else None
    batches = list(_batches(windows, batch_size, vocabulary_of(model), most))

    def score(batch: list[Window]) -> list[tuple[Window, np.ndarray, np.ndarray]]:
        parts = halved_when_full(lambda part: _score(model, documents, part), batch)
        return [scored for part, (nll, right) in parts for scored in zip(part, nll, right, strict=True)]

    with fast_attention(model), each_core_its_own(score, batches, workers_for(model)) as results:
        for batch, found in zip(batches, results, strict=True):
            for window, nll, right in found:
                nats[window.document] += float(nll.sum())
                tokens[window.document] += len(nll)
                correct[window.document] += int(right.sum())
            done += len(batch)
            if progress is not None:
                progress(done, len(windows))
    return [Likelihood(*values) for values in zip(nats, tokens, correct, strict=True)]


def vocabulary_of(model: Any) -> int:
    """The width of the logits."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def _batches(
    windows: list[Window], batch_size: int, vocabulary: int, most_tokens: int | None
) -> Iterator[list[Window]]:
    """Batches of at most as many tokens as `batch_size` of the longest windows, in order of length."""
    if not windows:
        return
    budget = batch_size * (windows[0].end - windows[0].start)
    budget = budget if most_tokens is None else min(budget, most_tokens)
    batch: list[Window] = []
    for window in windows:
        rows = len(batch) + 1
        full = rows * ((batch or [window])[0].end - (batch or [window])[0].start) > budget
        logits = (sum(len(held.targets) for held in batch) + len(window.targets)) * vocabulary
        if batch and (full or logits > BATCH_LOGITS):
            yield batch
            batch = []
        batch.append(window)
    yield batch


def _score(
    model: Any, documents: Sequence[Document], windows: Sequence[Window]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The NLL of each window's targets, and whether each was the model's first choice."""
    longest = max(window.end - window.start for window in windows)
    rows: np.ndarray = np.empty((len(windows), longest), dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        ids = documents[window.document].ids[window.start : window.end]
        row[: len(ids)] = ids
        row[len(ids) :] = ids[-1]  # any token will do; the pad token would make transformers warn
    counts = [len(window.targets) for window in windows]
    of_row: np.ndarray = np.repeat(np.arange(len(windows)), counts)
    places = np.concatenate([window.targets - 1 - window.start for window in windows])
    expected = np.concatenate([documents[window.document].ids[window.targets] for window in windows]).astype(np.int64)
    device = input_device(model)
    nll, right = _likelihood_at(
        model,
        torch.from_numpy(rows).to(device),
        torch.from_numpy(of_row).to(device),
        torch.from_numpy(places).to(device),
        torch.from_numpy(expected).to(device),
    )
    cuts = np.cumsum(counts)[:-1]
    return np.split(nll, cuts), np.split(right, cuts)


@torch.inference_mode()
def _likelihood_at(
    model: Any, rows: torch.Tensor, of_row: torch.Tensor, places: torch.Tensor, expected: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """NLL (N,) in float64 and hits (N,) of the tokens `expected` after `places` of `rows` (B, T)."""
    with _logits_only_at(model, of_row, places), last_layer_from(int(places.min())):
        logits = model(input_ids=rows, use_cache=False).logits
    if logits.shape[:2] == rows.shape:  # a model whose output layer the hook could not reach
        logits = logits[of_row, places]
    logits = logits.reshape(len(places), -1)
    nlls, hits = [], []
    size = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    for part, goal in zip(logits.split(size), expected.split(size), strict=True):
        part = part.float()
        nlls.append(part.logsumexp(-1) - part.gather(-1, goal[:, None])[:, 0])
        hits.append(part.argmax(-1) == goal)
    return torch.cat(nlls).cpu().double().numpy(), torch.cat(hits).cpu().numpy()


@contextlib.contextmanager
def _logits_only_at(model: Any, of_row: torch.Tensor, places: torch.Tensor) -> Iterator[None]:
    """Let the output layer see only the hidden states at (of_row, places), as one row: (1, N, H).

    What a model does to its logits afterwards (scaling, soft capping) acts on each by itself, so it stays as it is.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = plain.get_output_embeddings()
    if head is None:
        yield
        return

    mine = threading.get_ident()

    def select(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != mine:  # another thread's batch in the same model
            return None
        hidden = inputs[0]
        return (hidden[of_row.to(hidden.device), places.to(hidden.device)][None], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def input_device(model: Any) -> torch.device:
    """Where token ids have to lie: with the embeddings."""
    embeddings = model.get_input_embeddings()
    return next(iter(embeddings.parameters())).device


def context_of(model: Any, tokenizer: Any = None) -> int | None:
    """How many tokens the model takes at most, by its config, else by its tokenizer; None where neither says."""
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    value = getattr(tokenizer, "model_max_length", None)
    return int(value) if value and value < 10**9 else None
