"""What tells whether two evaluations are of the same thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch


def fingerprint_of(parts: Iterable[Any]) -> str:
    """SHA-256 of JSON-able parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()


@torch.inference_mode()
def fingerprint_weights(model: Any) -> str:
    """A fingerprint of a model's parameters: exact, the same on every device, and about as fast as reading them once.

    Each tensor's bits are summed as whole numbers (plain, and of a sample with their places), so that the order of
    summation does not matter.
    """
    digest = hashlib.sha256()
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        if parameter.device.type == "meta":
            continue
        bits = parameter.detach().contiguous().view(kinds[parameter.element_size()]).flatten()
        sample = bits[:: max(1, bits.numel() // 64)][:64].tolist()
        digest.update(f"{int(bits.sum(dtype=torch.int64))}{sample}".encode())
    return digest.hexdigest()
