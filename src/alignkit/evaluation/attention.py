"""Causal attention on a CPU, in blocks of queries whose scores stay in the cache.

torch's CPU kernel spends most of its time, where heads are small, in a matrix product with a few columns (values by
head dimension), which its libraries do at a quarter of their speed. Here that product is taken transposed, blocks of
queries see only the keys up to their own end, and the softmax runs on whole rows. The result is the kernel's up to
rounding (about 1e-6). On stories260K (heads of 8) attention takes less than half the time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "alignkit_blocks"
ROWS = 48
"""Queries in a block."""
SCORES = 2**19
"""Scores held at once: 2 MiB."""
LARGEST_HEAD = 16
"""Above this torch's own kernel is as fast."""
_OTHER_ATTENTION = ("softcap", "s_aux", "position_bias", "cache")

_state = threading.local()  # each thread's scratch, and what it needs of the last layer


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: queries (B, H, T, D), keys and values (B, H', T, D) -> (B, T, H, D).

    Whatever is not plain causal attention in float32 goes to transformers' own function.
    """
    batch, heads, length, size = query.shape
    plain = (
        attention_mask is None and dropout == 0.0 and not any(kwargs.get(name) is not None for name in _OTHER_ATTENTION)
    )
    same = key.shape[2] == length and value.shape[-1] == size and query.dtype == torch.float32
    if not (plain and same and length > 1 and getattr(module, "is_causal", False) and kwargs.get("is_causal", True)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    groups = batch * key.shape[1]
    queries = (query * (size**-0.5 if scaling is None else scaling)).reshape(groups, -1, length, size)
    keys = key.reshape(groups, length, size).transpose(1, 2)
    values = value.reshape(groups, length, size).transpose(1, 2).contiguous()
    last = getattr(module, "layer_idx", None) == module.config.num_hidden_layers - 1
    out = _in_blocks(queries, keys, values, getattr(_state, "needed_from", 0) if last else 0)
    return out.view(batch, heads, length, size).transpose(1, 2).contiguous(), None


def _in_blocks(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, needed_from: int = 0) -> torch.Tensor:
    """Queries (N, G, T, D), of G heads that share keys and values (N, D, T), to (N, G, T, D).

    Blocks that end before the query `needed_from` are zero.
    """
    groups, shared, length, size = queries.shape
    first = needed_from // ROWS * ROWS
    out = torch.zeros_like(queries) if first else torch.empty_like(queries)
    at_once = max(1, SCORES // (shared * ROWS * length))
    buffer = _buffer(at_once * shared * ROWS * length)
    future = torch.full((ROWS, ROWS), float("-inf")).triu(1)
    for low in range(0, groups, at_once):
        part = slice(low, min(low + at_once, groups))
        number = part.stop - low
        for start in range(first, length, ROWS):
            end = min(start + ROWS, length)
            rows = end - start
            count = number * shared * rows * end
            scores = buffer[:count].view(number, shared * rows, end)
            torch.bmm(queries[part, :, start:end].reshape(number, -1, size), keys[part, :, :end], out=scores)
            scores.view(-1, rows, end)[:, :, start:].add_(future[:rows, :rows])
            torch.softmax(scores, -1, out=scores)  # row by row, so that in place is right
            mixed = torch.bmm(values[part, :, :end], scores.transpose(1, 2))
            out[part, :, start:end] = mixed.view(number, size, shared, rows).permute(0, 2, 3, 1)
    return out


def _buffer(elements: int) -> torch.Tensor:
    """This thread's scratch, kept from call to call: fresh memory costs more than the arithmetic in it."""
    held = getattr(_state, "buffer", None)
    if held is None or len(held) < elements:
        held = _state.buffer = torch.empty(elements)
    return held


@contextlib.contextmanager
def last_layer_from(place: int) -> Iterator[None]:
    """In this thread, attention's output before `place` is not needed in the last layer: no later token reads it."""
    _state.needed_from = place
    try:
        yield
    finally:
        _state.needed_from = 0


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def fast_attention(model: Any) -> Iterator[None]:
    """Let a model on a CPU with small heads attend in blocks; other models as they are."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = plain.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else LARGEST_HEAD + 1)
    fits = plain.device.type == "cpu" and plain.dtype == torch.float32 and size <= LARGEST_HEAD
    if not fits or plain.config._attn_implementation != "sdpa":
        yield
        return
    plain.set_attn_implementation(NAME)
    try:
        yield
    finally:
        plain.set_attn_implementation("sdpa")
