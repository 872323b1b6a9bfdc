"""Which number formats a run computes in, decided once, from the device and the recipe.

| `model.dtype` | frozen weights | trainable weights | autocast |
|---|---|---|---|
| `auto`, where the device computes bfloat16 natively | bfloat16 | float32 | bfloat16 |
| `auto`, elsewhere | float32 | float32 | none |
| `float32` | float32 | float32 | none |
| `bfloat16` with an adapter | bfloat16 | float32 | bfloat16 |
| `bfloat16`, full fine-tuning | - | bfloat16 | none |
| `float16` | float16 | float32 | float16, with loss scaling |

On a CPU without bfloat16 instructions a bfloat16 matrix product is 18 to 62 times slower than float32's, so a
bfloat16 checkpoint is loaded as float32 there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import UserError
from alignkit.models.start import Start, recipe_start

if TYPE_CHECKING:
    from alignkit.recipe import Recipe


@dataclass(frozen=True)
class Precision:
    """The device and the number formats of one run."""

    device: torch.device
    frozen_dtype: torch.dtype
    """Of weights that training does not change, and of a model that is only evaluated."""
    trainable_dtype: torch.dtype
    compute_dtype: torch.dtype
    """Of matrix products: the autocast type, and the 4-bit compute type."""
    bf16: bool
    """TrainingArguments.bf16: bfloat16 autocast."""
    fp16: bool
    """TrainingArguments.fp16: float16 autocast with loss scaling."""
    use_cpu: bool
    """TrainingArguments.use_cpu."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, one line each; for the log and the manifest."""


def choose_precision(recipe: Recipe, start: str | Path | Start | None = None) -> Precision:
    """The precision of `recipe` on this process's device; raises UserError for what the device cannot do.

    `start` replaces `model.model_name_or_path`: going on from an adapter is no full fine-tuning.
    """
    device = choose_device()
    return decide_precision(recipe, device, computes_bfloat16(device), start)


def choose_device() -> torch.device:
    """The device that accelerate will give this process: the accelerator, unless ACCELERATE_USE_CPU says otherwise."""
    wanted_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "y", "t", "on"}
    if wanted_cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return kind if kind.type == "mps" else torch.device(kind.type, int(os.environ.get("LOCAL_RANK", "0")))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16 matrix products (emulation in float32 does not count)."""
    if device.type == "cuda":  # and ROCm, where torch answers True
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported()
    if device.type == "cpu":
        return _cpu_feature("_is_avx512_bf16_supported") or _cpu_feature("_is_amx_tile_supported") or _arm_bfloat16()
    return False  # mps: the M1 emulates it, and bfloat16 autocast there is young


def _cpu_feature(name: str) -> bool:
    ask = getattr(torch.cpu, name, None)
    return bool(ask is not None and ask())


def _arm_bfloat16() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return any(line.startswith("Features") and " bf16" in line for line in file)
    except OSError:
        return False


def decide_precision(
    recipe: Recipe, device: torch.device, native_bfloat16: bool, start: str | Path | Start | None = None
) -> Precision:
    """The table at the top of this module, for a device that computes bfloat16 natively or does not."""
    wanted = recipe.model.dtype
    notes: list[str] = []
    if wanted == "float16" and device.type == "cpu":
        hint = "use float32, bfloat16 or auto"
        raise UserError(recipe.problem("model.dtype", "float16 training needs a GPU, and this run is on a CPU", hint))
    if wanted == "auto":
        wanted = "bfloat16" if native_bfloat16 else "float32"
        name = _device_name(device)
        if native_bfloat16:
            notes.append(f"{name} computes bfloat16: bfloat16 autocast, trainable weights in float32")
        else:
            notes.append(f"{name} does not compute bfloat16 natively: weights and arithmetic in float32")
        pure = False
    else:
        pure = wanted == "bfloat16" and not _adapted(recipe, start)
        if wanted == "bfloat16" and not native_bfloat16:
            notes.append(
                f"model.dtype asks for bfloat16, which {_device_name(device)} only emulates: expect it to be slow"
            )
        if pure:
            notes.append(
                "model.dtype asks for bfloat16 with full fine-tuning: weights, gradients and optimizer in bfloat16"
            )
    dtype: torch.dtype = getattr(torch, wanted)
    return Precision(
        device=device,
        frozen_dtype=dtype,
        trainable_dtype=torch.bfloat16 if pure else torch.float32,
        compute_dtype=dtype,
        bf16=wanted == "bfloat16" and not pure,
        fp16=wanted == "float16",
        use_cpu=device.type == "cpu",
        notes=notes,
    )


def _adapted(recipe: Recipe, start: str | Path | Start | None) -> bool:
    """Whether an adapter is trained: the recipe's, or the one that training starts from."""
    if recipe.adapter is not None or recipe.quantization is not None:
        return True
    found = recipe_start(recipe, start)
    return found is not None and found.adapter is not None


def evaluation_precision(device: torch.device, native_bfloat16: bool) -> Precision:
    """The precision of a model that is only evaluated, without a recipe."""
    dtype = torch.bfloat16 if native_bfloat16 else torch.float32
    return Precision(device, dtype, torch.float32, dtype, bf16=False, fp16=False, use_cpu=device.type == "cpu")


def _device_name(device: torch.device) -> str:
    names: dict[str, Any] = {"cpu": "this CPU", "cuda": "this GPU", "mps": "this Mac's GPU"}
    return names.get(device.type, f"this {device.type} device")
