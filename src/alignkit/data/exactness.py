"""Whether a model keeps packed documents apart. Some can't (ALiBi models, state-space models), and none says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignkit.recipe import Recipe

# Masked positions weigh exactly nothing: with the same shapes, not even rounding differs. A leak is far above this.
TOLERANCE = 1e-6


def require_exact_packing(recipe: Recipe, model: PreTrainedModel) -> None:
    """Two tiny forward passes, as TRL's trainer makes them with packed rows.

    Raises:
        UserError: the model can't take packed rows, or a document's logits depend on the one before it in the row.
    """
    name = type(model).__name__
    try:
        leak = packing_leak(model)
    except (TypeError, ValueError, NotImplementedError) as error:
        message = f"{name} can't take packed rows: {error}"
    else:
        if leak <= TOLERANCE:
            return
        message = f"{name} lets packed documents see each other (logits change by {leak:.1g} of their size)"
    raise UserError(recipe.problem("training.packing", message, "set packing: false"))


@torch.no_grad()
def packing_leak(model: PreTrainedModel) -> float:
    """How much a document's logits change with the document before it in a row, relative to their size; 0 is exact."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    vocabulary = model.get_input_embeddings().num_embeddings
    training = model.training
    model.eval()

    def second(first: list[int]) -> torch.Tensor:
        ids = [token % vocabulary for token in (*first, 11, 12, 13, 14, 15)]
        batch: dict[str, Any] = collate([{"input_ids": ids, "labels": ids, "seq_lengths": [len(first), 5]}])
        batch.pop("labels")
        moved = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
        logits: torch.Tensor = model(**moved, use_cache=False).logits[0, len(first) :].float()
        return logits

    try:
        one, other = second([3, 4, 5, 6, 7, 8, 9]), second([27, 26, 25, 24, 23, 22, 21])
    finally:
        model.train(training)
    return ((one - other).abs().max() / one.abs().max().clamp(min=1e-12)).item()
