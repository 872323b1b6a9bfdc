"""An adapter added into its base's weights, in float32, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignkit.errors import Problem
from alignkit.models import load_result
from alignkit.models.precision import choose_device, computes_bfloat16, evaluation_precision
from alignkit.models.upstream import raised_upstream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.merging.plan import Plan
    from alignkit.models import Precision


def precision_of(plan: Plan) -> Precision | None:
    """The number format of the merged weights; None: the base's own, as it was saved."""
    if plan.dtype is None:
        return None
    device = choose_device()
    settled = evaluation_precision(device, computes_bfloat16(device))
    dtype: torch.dtype = getattr(torch, plan.dtype)
    return replace(settled, frozen_dtype=dtype, compute_dtype=dtype)


def load_adapter_of(plan: Plan, *, dequantize: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """The plan's adapter on its base, ready to evaluate: as it was trained, or on dequantised weights."""
    recipe = plan.recipe
    return load_result(
        plan.adapter.path,
        precision_of(plan),
        plan.head,
        quantization=plan.quantization,
        dequantize=dequantize,
        base=plan.base,
        base_revision=plan.revision,
        trust_remote_code=recipe is not None and recipe.model.trust_remote_code,
        use_safetensors=recipe is None or recipe.model.use_safetensors,
    )


def merged_into(plan: Plan, say: Callable[[str], None]) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base with the adapter in its weights, and the tokenizer."""
    say(f"loading {plan.adapter.path} on {plan.base}")
    model, tokenizer = load_adapter_of(plan, dequantize=True)
    say("merging")

    def complain(field: str | None, message: str, hint: str | None = None) -> Problem:
        return Problem(message, plan.adapter.path, field=field, hint=hint)

    with raised_upstream(complain, str(plan.adapter.path)), torch.no_grad():
        merged = merge_layers(model)
    return merged, tokenizer


def merge_layers(model: Any) -> Any:
    """The base of a PeftModel, the adapter merged into each layer in float32 and rounded once, to the layer's type.

    PEFT alone rounds the adapter's change to the layer's type first and then the sum again; and where a weight is tied
    to another (embeddings and output), it changes both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    _untie(base, [layer.get_base_layer() for layer in layers])
    for layer in layers:
        own = layer.get_base_layer()
        kept = {name: parameter.dtype for name, parameter in own.named_parameters(recurse=False)}
        for parameter in own.parameters(recurse=False):
            parameter.data = parameter.data.float()
        layer.merge(safe_merge=True)
        for name, parameter in own.named_parameters(recurse=False):
            parameter.data = parameter.data.to(kept[name])
    return model.merge_and_unload()


def _untie(base: nn.Module, adapted: list[nn.Module]) -> None:
    """Give an adapted layer that shares its weight with another module a weight of its own."""
    config: Any = base.config
    if not getattr(config, "tie_word_embeddings", False):
        return
    owners: dict[int, int] = {}
    for module in base.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in adapted:
        weight = getattr(layer, "weight", None)
        if weight is not None and owners.get(id(weight), 0) > 1:
            layer.weight = nn.Parameter(weight.data.clone(), requires_grad=False)
            config.tie_word_embeddings = False
