"""What stands on top of a model's trunk, and which weights no checkpoint gave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FRESH = "alignkit_fresh_weights"


def remember_fresh(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Note the weights that the checkpoint lacked: they are random, whatever part of the model they are in."""
    setattr(model, _FRESH, tuple(sorted(names)))


def head_modules(model: PreTrainedModel) -> list[str]:
    """The modules that an adapter must train and save whole, as PEFT's `modules_to_save` names them.

    All that is not the trunk (`base_model_prefix`): a head may have several parts (`pre_classifier`, `classifier`).
    And modules of the trunk whose weights are random, as BERT's pooler where the checkpoint has none.
    """
    trunk = model.base_model_prefix
    found = [name for name, child in model.named_children() if name != trunk and _has_weights(child)]
    for name in getattr(model, _FRESH, ()):
        module = name.rpartition(".")[0]
        if module.split(".")[0] not in found and module not in found:
            found.append(module)
    return found


def draw_head(model: PreTrainedModel) -> None:
    """Draw the weights of the head anew, as the architecture initialises them."""
    trunk = model.base_model_prefix
    for name, child in model.named_children():
        if name != trunk:
            for module in child.modules():
                for parameter in module.parameters(recurse=False):
                    parameter._is_hf_initialized = False
                module._is_hf_initialized = False
                model._init_weights(module)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
