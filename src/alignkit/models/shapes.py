"""Models of the right shapes, without weights: what a plan builds under fake tensors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OF_HEAD = ("num_labels", "id2label", "label2id", "problem_type")


def model_of_shape(auto_class: Any, config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedModel:
    """`auto_class.from_config` with the options of `from_pretrained`; quantised layers are packed as bitsandbytes does.

    To be called under a FakeTensorMode: the weights mean nothing.
    """
    config = copy.deepcopy(config)
    for name in _OF_HEAD:
        if name in options:
            setattr(config, name, options[name])
    kept = {name: options[name] for name in ("dtype", "trust_remote_code", "attn_implementation") if name in options}
    model = auto_class.from_config(config, **kept)
    if (quantization := options.get("quantization_config")) is not None:
        _quantize(model, quantization)
    return model


def _quantize(model: Any, quantization: Any) -> None:
    """Replace linear layers as transformers' bitsandbytes quantisers do, and pack their weights by size."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers import AutoHfQuantizer
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.utils.quantization_config import QuantizationMethod

    kept = [*(quantization.llm_int8_skip_modules or []), *get_keys_to_not_convert(model)]
    with _disable_current_modes():  # its layers begin on the meta device, which fake tensors do not take
        replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=quantization)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            _pack_4bit(module, quantization)
        elif type(module).__name__ == "Linear8bitLt":
            _pack_8bit(module)
    model.config.quantization_config = quantization
    model.quantization_method = QuantizationMethod.BITS_AND_BYTES
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = quantization.load_in_4bit, quantization.load_in_8bit
    model.is_quantized, model.hf_quantizer = True, AutoHfQuantizer.from_config(quantization)


def _pack_4bit(module: Any, quantization: Any) -> None:
    """Two weights a byte, a float32 scale for 64 of them; with double quantisation a byte and one for 256 scales."""
    from bitsandbytes.functional import QuantState

    numbers, block = module.in_features * module.out_features, 64
    blocks = -(-numbers // block)
    double = quantization.bnb_4bit_use_double_quant
    second, offset = None, None
    if double:
        scales = torch.empty(-(-blocks // 256), dtype=torch.float32)
        second = QuantState(absmax=scales, code=torch.empty(256), blocksize=256, dtype=torch.float32)
        offset = torch.empty(())
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if double else torch.float32),
        shape=torch.Size((module.out_features, module.in_features)),
        code=torch.empty(16),
        blocksize=block,
        quant_type=quantization.bnb_4bit_quant_type,
        dtype=quantization.bnb_4bit_compute_dtype,
        offset=offset,
        state2=second,
    )
    packed = torch.empty(((numbers + 1) // 2, 1), dtype=torch.uint8)
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.quant_state, weight.bnb_quantized, weight.blocksize = state, True, block
    weight.compress_statistics, weight.quant_type = double, quantization.bnb_4bit_quant_type
    weight.quant_storage, weight.module = torch.uint8, module
    module.weight, module.quant_state = weight, state
    module.support_avx512bf16_for_cpu = False
    _make_bias(module, quantization.bnb_4bit_compute_dtype)


def _pack_8bit(module: Any) -> None:
    """One byte a weight and a float32 scale a row."""
    weight: Any = nn.Parameter(
        torch.empty((module.out_features, module.in_features), dtype=torch.int8), requires_grad=False
    )
    weight.CB, weight.SCB, weight.has_fp16_weights = weight.data, torch.empty(module.out_features), False
    module.weight = weight
    module.state.CB, module.state.SCB = weight.CB, weight.SCB
    module.state.has_fp16_weights = False
    _make_bias(module, torch.float16)


def _make_bias(module: Any, dtype: torch.dtype) -> None:
    if module.bias is not None:
        module.bias = nn.Parameter(torch.empty(module.out_features, dtype=dtype), requires_grad=False)


def numbers_in(parameter: nn.Parameter) -> int:
    """Weights that a parameter holds: a packed 4-bit one holds two a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
