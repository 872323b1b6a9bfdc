"""Whether a plan fits a GPU, and how long its steps take there."""

from __future__ import annotations

from alignkit.gpus import GPUS, SHOWN, Gpu

CONTEXT = 600 * 2**20
"""What the driver and the libraries take on a GPU beside tensors, about, in bytes."""
FRAGMENTS = 0.05
"""What torch's allocator reserves beyond what tensors take, about, as a share of them."""
UTILISATION = 0.4
"""Share of a GPU's dense 16-bit speed that training reaches, assumed."""


def needed(peak: int) -> int:
    """Bytes of a GPU's memory that tensors of `peak` bytes need, with the allocator's reserve and the driver's."""
    return round(peak * (1 + FRAGMENTS)) + CONTEXT


def verdict(peak: int, gpu: Gpu) -> str:
    """`fits`, `tight` (only if nothing is lost to fragments) or `does not fit`."""
    if needed(peak) <= gpu.memory:
        return "fits"
    return "tight" if peak + CONTEXT <= gpu.memory else "does not fit"


def gpus_shown(chosen: Gpu | None) -> list[Gpu]:
    """The chosen one, else the common ones."""
    return [GPUS[name] for name in SHOWN] if chosen is None or chosen.name not in GPUS else [chosen]


def smallest_gpu(peak: int) -> str | None:
    """The smallest of the common GPUs that a plan with this peak fits; None for none."""
    common = sorted((GPUS[name] for name in SHOWN), key=lambda gpu: gpu.memory)
    return next((gpu.name for gpu in common if verdict(peak, gpu) == "fits"), None)


def step_seconds(flops: int, gpu: Gpu, num_gpus: int = 1) -> float | None:
    """Seconds an optimizer step takes at the assumed utilisation; None where the GPU's speed is not known."""
    return flops / (gpu.flops * UTILISATION * num_gpus) if gpu.flops else None
