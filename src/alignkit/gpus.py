"""The GPUs that plans are made for: memory, and dense 16-bit speed, from their makers' data sheets.

Speeds are of tensor cores with float32 accumulation and no sparsity. NVIDIA's data sheets of Ada, Hopper and Blackwell
print twice that, "with sparsity" (H100 SXM 1,979, L4 242, L40S 733); the white papers of GeForce cards (GA102, AD102,
GB202; appendix tables) give it as "with FP32 accumulate", half of what they do with FP16. T4 and V100 know float16
only. MI300X: AMD's data sheet, "peak bfloat16".
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from alignkit.errors import Problem, UserError

CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """`memory` is what the driver shows as total, in bytes; `flops` are dense 16-bit operations a second."""

    name: str
    memory: int
    flops: float
    bf16: bool = True


def _gpu(name: str, gib: float, teraflops: float, *, bf16: bool = True) -> Gpu:
    return Gpu(name, int(gib * 2**30), teraflops * 1e12, bf16)


# Total memory is below the number in the name: firmware and ECC keep some of it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4-16gb", 14.6, 65, bf16=False),
        _gpu("v100-16gb", 15.8, 125, bf16=False),
        _gpu("v100-32gb", 31.7, 125, bf16=False),
        _gpu("rtx3060-12gb", 11.8, 25.5),
        _gpu("rtx3090-24gb", 23.6, 71),
        _gpu("rtx4060ti-16gb", 15.6, 44),
        _gpu("rtx4080-16gb", 15.6, 97.5),
        _gpu("rtx4090-24gb", 23.6, 165),
        _gpu("rtx5090-32gb", 31.4, 209.5),
        _gpu("a10g-24gb", 22.1, 70),
        _gpu("l4-24gb", 22.0, 121),
        _gpu("a6000-48gb", 47.4, 155),
        _gpu("l40s-48gb", 44.5, 362),
        _gpu("rtxpro6000-96gb", 94.9, 503.8),
        _gpu("a100-40gb", 39.4, 312),
        _gpu("a100-80gb", 79.2, 312),
        _gpu("h100-80gb", 79.1, 989),
        _gpu("h200-141gb", 139.8, 989),
        _gpu("b200-180gb", 178.4, 2250),
        _gpu("mi300x-192gb", 191.5, 1307),
    )
}
SHOWN = (
    "rtx4060ti-16gb",
    "rtx4090-24gb",
    "rtx5090-32gb",
    "l40s-48gb",
    "a100-40gb",
    "a100-80gb",
    "h100-80gb",
    "h200-141gb",
)
"""What a plan without --gpu is held against."""


def find(name: str) -> Gpu:
    """The GPU of this name; a part of one that fits a single GPU is enough (`h100`). Raises UserError for others."""
    word = name.lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    if word in GPUS:
        return GPUS[word]
    starts = [key for key in GPUS if key.startswith(word)] if word else []
    if len(starts) == 1:
        return GPUS[starts[0]]
    near = starts or difflib.get_close_matches(word, GPUS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = f"known: {', '.join(GPUS)}, and {CPU} for this machine's processor"
    raise UserError(Problem(f"there is no GPU {name!r} in the table", field="--gpu", hint=hint + listed))
