"""Attention on a CPU while training: plain matrix products where the scores are few.

torch's fused kernel for CPUs is made for long rows; on the short ones that CPUs train on, its backward takes most of a
step's attention time. The products, the mask and the softmax one after the other give the same result up to rounding
and hold B·H·T² scores for the backward, so they are used only while those are few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "alignkit_products"
MOST_SCORES = 2**23
"""Scores of one layer, B·H·T², up to which products are used: 32 MiB in float32."""
_OTHER_ATTENTION = ("softcap", "s_aux", "position_bias", "cache")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: queries (B, H, T, D), keys and values (B, H', S, D) -> (B, T, H, D)."""
    batch, heads, length, size = query.shape
    scores = batch * heads * length * key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = causal and length == key.shape[2] and not any(kwargs.get(name) is not None for name in _OTHER_ATTENTION)
    if not plain or scores > MOST_SCORES or (attention_mask is not None and attention_mask.dtype != torch.bool):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    seen = torch.ones(length, length, dtype=torch.bool).tril() if attention_mask is None else attention_mask
    shared = heads // key.shape[1]
    weights = (query * (size**-0.5 if scaling is None else scaling)) @ repeat_kv(key, shared).transpose(2, 3)
    weights = weights.masked_fill(~seen, torch.finfo(weights.dtype).min).softmax(-1, dtype=torch.float32)
    weights = torch.nn.functional.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    return (weights @ repeat_kv(value, shared)).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def attending_by_products(model: Any) -> Iterator[None]:
    """Inside, a model on a CPU that attends by `sdpa` attends by this module's function; other models as they are."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if plain.device.type != "cpu" or getattr(plain.config, "_attn_implementation", None) != "sdpa":
        yield
        return
    plain.set_attn_implementation(NAME)
    try:
        yield
    finally:
        plain.set_attn_implementation("sdpa")
