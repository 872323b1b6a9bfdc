"""A run's own plan, beside what it measured: every run checks the planner."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alignkit.gpus import CPU, Gpu
from alignkit.methods.base import Stage
from alignkit.plan.run import planner
from alignkit.plan.show import size

OFF = "ALIGNKIT_NO_PLAN"
"""Set this in the environment to leave it out; it takes a second or two for a small model, ten for a large one."""


def compare(stage: Stage, measured: int, measured_of: str) -> dict[str, Any] | None:
    """What the plan says of the run in `stage`, for its manifest; None where it cannot say anything.

    Args:
        measured: bytes.
        measured_of: what was measured, in the manifest's words.
    """
    found = planned(stage)
    if found is not None:
        counted = size(found["planned_peak_memory_bytes"])
        stage.say(f"peak memory: {size(measured)} of {measured_of}; planned for tensors: {counted}")
    return found


def planned(stage: Stage) -> dict[str, Any] | None:
    """The same, in silence: the peak, what stands in memory then, and when that is."""
    if os.environ.get(OFF) or not hasattr(getattr(stage.data, "train", None), "__len__"):
        return None
    device = stage.precision.device
    gpu: Gpu | str = CPU
    if device.type == "cuda":
        gpu = Gpu(torch.cuda.get_device_name(device), 0, 0.0, stage.precision.bf16 or stage.precision.fp16)
    try:
        with _same_random_numbers(), planner(stage.recipe, gpu) as made:
            made.tokenizer, made.data = stage.tokenizer, stage.data
            found = made.plan()
    except Exception as error:  # a plan is an extra: the run is good without it
        logging.getLogger("alignkit").info("no plan to compare with: %s: %s", type(error).__name__, error)
        return None
    return {
        "planned_peak_memory_bytes": found.peak_memory_bytes,
        "planned_parts": found.parts,
        "planned_moment": found.moment,
    }


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """What comes after the simulation draws what it would have drawn without it."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
