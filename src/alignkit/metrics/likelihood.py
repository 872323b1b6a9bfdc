"""Perplexity and bits per byte from sums over documents, never from averages of averages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alignkit.metrics.measurement import Measurement, divide

MOST_NATS = 700.0  # exp() of more overflows; no real model gets near it


def perplexity(nlls: Sequence[float], tokens: Sequence[int], signature: str = "version:alignkit-1") -> Measurement:
    """exp(total negative log-likelihood in nats / total tokens predicted), documents as items; less is better."""
    return Measurement("perplexity", signature, False, _columns(nlls, tokens), perplexity_formula)


def perplexity_formula(sums: np.ndarray) -> np.ndarray:
    """From sums of (nats, tokens), shape (..., 2)."""
    return np.exp(np.minimum(divide(sums[..., 0], sums[..., 1]), MOST_NATS))


def bits_per_byte(nlls: Sequence[float], sizes: Sequence[int], signature: str = "version:alignkit-1") -> Measurement:
    """Total nats / ln 2 / total UTF-8 bytes: comparable between tokenizers; less is better."""
    return Measurement("bits_per_byte", signature, False, _columns(nlls, sizes), bits_per_byte_formula)


def bits_per_byte_formula(sums: np.ndarray) -> np.ndarray:
    """From sums of (nats, bytes), shape (..., 2)."""
    return divide(sums[..., 0], sums[..., 1]) / math.log(2)


def _columns(nlls: Sequence[float], counts: Sequence[int]) -> np.ndarray:
    return np.stack([np.asarray(nlls, dtype=float), np.asarray(counts, dtype=float)], axis=1)
