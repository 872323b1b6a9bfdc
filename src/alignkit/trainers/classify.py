"""Training a classifier on transformers' Trainer: its batches, its loss, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction, Trainer

from alignkit.examples.labels import MULTI, NUMERIC, TOKEN, Head, as_number, decode
from alignkit.metrics.classification import (
    accuracy,
    class_measurements,
    label_measurements,
    matthews_correlation,
)
from alignkit.metrics.entities import entity_f1
from alignkit.metrics.regression import numeric_measurements

IGNORED = -100
Row = dict[str, Any]


@dataclass
class LabelledBatches:
    """Rows to batches that are no longer than their longest row.

    `input_ids` and `attention_mask`, (B, T) each, and `labels`: class numbers (B,), 0 or 1 for each label (B, L),
    numbers (B,), or for tokens (B, T) with -100 where there is no first piece of a word.
    """

    head: Head
    pad_token_id: int
    multiple: int = 1

    def __post_init__(self) -> None:
        self.numbers = {name: number for number, name in enumerate(self.head.labels)}

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = padded([row["input_ids"] for row in rows], self.pad_token_id, self.multiple)
        batch["labels"] = self._tags(rows, batch["input_ids"].shape) if self.head.kind == TOKEN else self._labels(rows)
        return batch

    def _labels(self, rows: Sequence[Row]) -> torch.Tensor:
        values = [decode(row["label"]) for row in rows]
        if self.head.kind == NUMERIC:
            return torch.tensor([as_number(value) for value in values], dtype=torch.float32)
        if self.head.kind == MULTI:
            flags = torch.zeros(len(rows), len(self.numbers))
            for place, names in enumerate(values):
                flags[place, [self.numbers[name] for name in (names if isinstance(names, list) else [names])]] = 1.0
            return flags
        return torch.tensor([self.numbers[value] for value in values])

    def _tags(self, rows: Sequence[Row], shape: Sequence[int]) -> torch.Tensor:
        labels: np.ndarray = np.full(shape, IGNORED, dtype=np.int64)
        for place, row in enumerate(rows):
            labels[place, np.asarray(row["firsts"], dtype=np.int64)] = [self.numbers[tag] for tag in row["tags"]]
        return torch.from_numpy(labels)


def padded(rows: Sequence[Sequence[int]], pad_token_id: int, multiple: int = 1) -> dict[str, torch.Tensor]:
    """Token ids padded on the right to the longest row, rounded up to `multiple`, and their mask: (B, T) each."""
    width = max(len(row) for row in rows)
    width = -(-width // multiple) * multiple
    ids: np.ndarray = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    mask: np.ndarray = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


# ---------------------------------------------------------------------- the trainer
class ClassificationTrainer(Trainer):
    """Trainer whose loss weighs every example (or labelled token) of an optimizer step alike.

    Upstream's models take the mean of each micro-batch, which Trainer then adds up over an accumulated step without
    dividing (their forward takes `**kwargs`, which it reads as a promise to scale the loss); and a mean over
    micro-batches would weigh the tokens of short ones more.

    Args:
        head: what is learned.
        class_weights: of each label, (L,); for several labels a text, the weight of a label that holds.
        before_saving: called with this trainer when training has ended, before the result is saved.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        head: Head,
        class_weights: Sequence[float] | None = None,
        before_saving: Callable[[ClassificationTrainer], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, compute_metrics=_Measures(head), **kwargs)
        self.head = head
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.before_saving = before_saving
        self.label_smoother = None  # the loss below smooths itself

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        if self.before_saving is not None:
            self.before_saving(self)
        return output

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """What the summed losses of a step are divided by: the weights of its examples (or labelled tokens)."""
        if not batch_samples:
            return None
        total = sum(self._weight_of(batch["labels"]) for batch in batch_samples)
        total = torch.as_tensor(total, dtype=torch.float32, device=device)
        return self.accelerator.gather(total).sum() if self.args.average_tokens_across_devices else total

    def _weight_of(self, labels: torch.Tensor) -> torch.Tensor:
        if self.head.kind in (MULTI, NUMERIC):
            return torch.tensor(float(len(labels)))
        known = labels[labels != IGNORED]
        return (
            torch.tensor(float(known.numel())) if self.class_weights is None else self.class_weights[known.cpu()].sum()
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        loss = self._summed(logits.float(), labels)
        total = self._weight_of(labels) if num_items_in_batch is None else num_items_in_batch
        loss = loss / torch.as_tensor(total, device=loss.device).clamp_min(1e-8)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def _summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        smoothing = self.args.label_smoothing_factor
        if self.head.kind == NUMERIC:
            return functional.mse_loss(logits.squeeze(-1), labels, reduction="sum")
        if self.head.kind == MULTI:
            wanted = labels * (1 - smoothing) + smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
            return losses.mean(dim=-1).sum()
        return functional.cross_entropy(
            logits.view(-1, logits.shape[-1]), labels.view(-1), weight=weights, ignore_index=IGNORED,
            reduction="sum", label_smoothing=smoothing,
        )  # fmt: skip


class _Measures:
    """What an evaluation while training gives beside the loss: it may be early stopping's metric."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(prediction.label_ids)
        if self.head.kind == NUMERIC:
            found = numeric_measurements(logits.reshape(-1), labels)
        elif self.head.kind == MULTI:
            found = label_measurements(logits > 0, labels > 0.5)
        elif self.head.kind == TOKEN:
            return self._of_tokens(logits.argmax(axis=-1), labels)
        else:
            found = class_measurements(logits.argmax(axis=-1), labels)
        return {one.name: one.value for one in found}

    def _of_tokens(self, said: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        rows = [
            (row[known], right[known])
            for row, right in zip(said, labels, strict=True)
            if (known := right != IGNORED).any()
        ]
        tags = [[[self.head.labels[number] for number in side] for side in pair] for pair in rows]
        flat = [[tag for pair in tags for tag in pair[side]] for side in (0, 1)]
        found = [accuracy(flat[0], flat[1]), matthews_correlation(flat[0], flat[1])]
        if self.head.scheme is not None:
            found.append(entity_f1([pair[0] for pair in tags], [pair[1] for pair in tags]))
        return {one.name: one.value for one in found}
