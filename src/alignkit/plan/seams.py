"""What is changed of torch and TRL while a step is simulated, each as narrow as it can be.

- `nn.Module._apply` swaps parameters, which fake tensors refuse; here converted values are put in their place.
- Simulated tensors are on the CPU, and what a CUDA device does otherwise is done to them: its fused attention, its
  list of operations that autocast computes in float32, and TRL's Triton kernels, which need no memory of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from alignkit.plan.follow import Follow
from alignkit.trainers.seams import project_supervised_positions_only


def _apply(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    if recurse:
        for module in self.children():
            module._apply(fn)
    for parameter in self._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                converted = fn(parameter)
            if converted is not parameter:
                parameter.data = converted
    for key, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[key] = fn(buffer)
    return self


@contextlib.contextmanager
def changed(follow: Follow, *, cuda: bool) -> Iterator[None]:
    """Everything above, while inside."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(_scored_positions_as_found())
        if cuda:
            stack.enter_context(_triton_kernels(follow))
            stack.enter_context(CudaCalls())
        yield


@contextlib.contextmanager
def _scored_positions_as_found() -> Iterator[None]:
    """Which positions the LM head scores is a seam that some methods set for the whole process: undone after each."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    set_before = project_supervised_positions_only.cache_info().currsize > 0
    project_supervised_positions_only.cache_clear()
    with patch.object(utils, "_use_triton", chunked_logprob._use_triton):
        yield
    if not set_before:
        project_supervised_positions_only.cache_clear()


@contextlib.contextmanager
def _triton_kernels(follow: Follow) -> Iterator[None]:
    """TRL's fused LM head as it runs on CUDA: kernels that work in place on a tile of logits."""
    from trl.kernels import chunked_logprob

    def nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    def addmm(_sum: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        follow.add_flops(2 * left.shape[0] * left.shape[1] * right.shape[1])

    project_supervised_positions_only()  # which CUDA does by itself
    kernels: dict[str, Any] = {"_forward_tile": nothing, "_backward_tile": nothing, "_addmm_fp32": addmm}
    with patch.multiple(chunked_logprob, **kernels):
        yield


# torch's documentation, "CUDA Ops that can autocast to float32", as functions and methods are called.
_NAMES = """__pow__ __rpow__ __rdiv__ __rtruediv__ acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss
cdist cosine_similarity cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div
l1_loss layer_norm log log10 log_softmax log1p log2 margin_ranking_loss mse_loss nll_loss norm normalize pow prod
reciprocal rsqrt sinh smooth_l1_loss softmax softmin softplus sum renorm tan triplet_margin_loss"""
_FLOAT32 = frozenset(_NAMES.split())
_HALF = (torch.bfloat16, torch.float16)


class CudaCalls(TorchFunctionMode):
    """Calls as a CUDA device would answer them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if getattr(func, "__name__", "") in _FLOAT32 and torch.is_autocast_enabled("cpu") and "dtype" not in kwargs:
            args = tuple(_float32(value) for value in args)
            kwargs = {key: _float32(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALF else value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 - the fused kernels share keys without copying them
) -> torch.Tensor:
    """The fused kernels of CUDA: they keep queries, keys, values, the output and one number a row.

    A mask becomes a bias in the queries' type, and is kept too. Dropout is drawn inside the kernels.
    """
    del dropout_p
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), float("-inf"))
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out: torch.Tensor = attend(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return out
