"""What a reward model gives: rewards of token sequences, and the check that a saved one gives the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignkit.errors import RunFailed, UserError
from alignkit.evaluation.likelihood import input_device
from alignkit.evaluation.memory import halved_when_full
from alignkit.models import load_result

if TYPE_CHECKING:
    from alignkit.models import Precision
    from alignkit.recipe import Recipe

CHECKED_PAIRS = 64
MOST_APART = 1e-4
"""Rewards of the saved model may differ by this much from the trained one's."""


def is_reward_model(model: Any) -> bool:
    """Whether the model gives a text one number."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(plain).__name__.endswith("ForSequenceClassification") and plain.config.num_labels == 1


def rewards_of(
    model: Any,
    sequences: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The reward of each sequence of token ids, (N,) float64, in order. The model must be in evaluation mode."""
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    found: np.ndarray = np.empty(len(sequences))
    done = 0
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        parts = halved_when_full(
            lambda part: (_score(model, [sequences[place] for place in part], pad_token_id),), places
        )
        for part, (scores,) in parts:
            found[list(part)] = scores
        done += len(places)
        if progress is not None:
            progress(done, len(order))
    return found


@torch.inference_mode()
def _score(model: Any, sequences: list[Sequence[int]], pad_token_id: int) -> np.ndarray:
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    device = input_device(model)
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits[:, 0].double().cpu().numpy()


def check_saved(recipe: Recipe, trained: Any, folder: Path, rows: Any, precision: Precision, pad_token_id: int) -> None:
    """Score the first pairs of `rows` with the trained model and with the one loaded anew from `folder`.

    Raises:
        RunFailed: they differ; what was saved is not what was trained (a lost head, a base that moved).
    """
    pairs = [row for row, _ in zip(rows, range(CHECKED_PAIRS), strict=False)]
    sequences = [pair[word] for pair in pairs for word in ("chosen_ids", "rejected_ids")]
    try:
        saved = _load_again(recipe, folder, precision)
    except UserError as error:
        raise RunFailed(f"the saved reward model is not the trained one: {error}") from error
    found = []
    for model in (trained, saved):
        with _evaluating(model, precision):
            found.append(rewards_of(model, sequences, pad_token_id))
    apart = np.abs(found[0] - found[1])
    if not float(apart.max()) <= MOST_APART:
        worst = pairs[int(apart.argmax()) // 2]["example_id"]
        raise RunFailed(
            f"the saved reward model is not the trained one: loaded anew from {folder}, it gives rewards up to "
            f"{apart.max():.3g} away (worst: {worst})"
        )


def _load_again(recipe: Recipe, folder: Path, precision: Precision) -> Any:
    full = recipe.adapter is None and recipe.quantization is None
    saved, _ = load_result(
        folder,
        replace(precision, frozen_dtype=precision.trainable_dtype) if full else precision,
        recipe.head,
        quantization=None if recipe.quantization is None else recipe.quantization.arguments(),
        trust_remote_code=recipe.model.trust_remote_code,
        use_safetensors=recipe.model.use_safetensors,
        attn_implementation=recipe.model.attn_implementation,
    )
    return saved


@contextlib.contextmanager
def _evaluating(model: Any, precision: Precision) -> Iterator[None]:
    """The model in evaluation mode and in the run's arithmetic; afterwards as it was."""
    training = model.training
    model.eval()
    autocast = precision.bf16 or precision.fp16
    with torch.autocast(precision.device.type, dtype=precision.compute_dtype, enabled=autocast):
        yield
    model.train(training)
