"""The head of a reward model: one output, zero before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignkit.model_folders import HEADS, labels_in_adapter
from alignkit.models.build import build_model
from alignkit.models.precision import Precision
from alignkit.models.start import recipe_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe


def build_reward_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, precision: Precision, *, start: str | Path | None = None
) -> Any:
    """`build_model` with one output. A head that the start does not bring begins at zero: every text has reward 0.

    What begins at random instead gives the first steps a preference that nothing in the data asks for.
    """
    model = build_model(recipe, tokenizer, precision, "sequence_classification", num_labels=1, start=start)
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if not _brings_head(recipe, base, start):
        with torch.no_grad():
            for layer in output_layers(base):
                for weight in layer.parameters():
                    weight.zero_()
    # A score, not a class: transformers' pipeline would squash it otherwise.
    base.config.problem_type = "regression"
    return model


def output_layers(model: Any) -> list[nn.Module]:
    """The last linear layer of a sequence classifier's head, and peft's copy of it where there is an adapter."""
    found = []
    for name, module in model.named_modules():
        in_head = any(part in HEADS for part in name.split("."))
        if in_head and isinstance(module, nn.Linear) and module.out_features == model.config.num_labels:
            found.append(module)
    return found


def _brings_head(recipe: Recipe, base: Any, start: str | Path | None) -> bool:
    """Whether the start is a reward model already: a full one, or an adapter that holds a trained head."""
    found = recipe_start(recipe, start)
    if found is None:
        return False
    if found.adapter is not None and labels_in_adapter(found.adapter) is not None:
        return True
    return any(name.endswith("ForSequenceClassification") for name in base.config.architectures or ())
