"""From which probability each of several labels holds, chosen on the training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alignkit.evaluation.classifier import by_length
from alignkit.examples.labels import CONFIG_KEY, Head, decode
from alignkit.trainers.classify import padded

MOST_ROWS = 5000
AT_ONCE = 1024


def best_thresholds(scores: np.ndarray, holds: np.ndarray) -> tuple[float, ...]:
    """For each label the threshold of the best F1; of several equal ones the middle of the widest gap's.

    Both have shape (rows, labels). A label that never holds keeps 0.5, and so does one that always does.
    """
    found = []
    for column, truth in zip(scores.T, holds.T, strict=True):
        order = np.argsort(-column, kind="stable")
        ranked, right = column[order], np.cumsum(truth[order])
        total = right[-1] if len(right) else 0
        if not 0 < total < len(truth):
            found.append(0.5)
            continue
        # Taking the first k rows: the threshold lies between row k-1 and row k, which must differ.
        taken = np.arange(1, len(ranked) + 1)
        f1 = 2 * right / (taken + total)
        below: np.ndarray = np.append(ranked[1:], 0.0)
        f1[ranked <= below] = -1.0
        best = np.flatnonzero(f1 >= f1.max() - 1e-12)
        place = best[np.argmax(ranked[best] - below[best])]
        found.append(float((ranked[place] + below[place]) / 2))
    return tuple(found)


@torch.inference_mode()
def settle_thresholds(model: Any, head: Head, given: float | None, rows: Any, pad_token_id: int) -> None:
    """Write into the model's config from which probability each label holds: `given`, or the best on `rows`.

    Args:
        rows: the training rows; of many, every n-th.
    """
    thresholds = (given,) * len(head.labels) if given is not None else None
    if thresholds is None:
        rows = rows.select(range(0, len(rows), -(-len(rows) // MOST_ROWS)))
        lengths, ids, labels = rows["length"], rows["input_ids"], rows["label"]
        scores = np.zeros((len(rows), len(head.labels)))
        training, device = model.training, next(model.parameters()).device
        model.eval()
        for places in by_length(list(lengths), AT_ONCE):
            batch = padded([ids[place] for place in places], pad_token_id)
            out = model(**{name: tensor.to(device) for name, tensor in batch.items()})
            scores[places] = out.logits.float().sigmoid().cpu().numpy()
        model.train(training)
        holds = np.array([[name in decode(text) for name in head.labels] for text in labels])
        thresholds = best_thresholds(scores, holds)
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    setattr(config, CONFIG_KEY, {**getattr(config, CONFIG_KEY), "thresholds": list(thresholds)})
