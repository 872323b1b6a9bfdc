"""Each name of TRL that is not public and that alignkit changes; tests/methods/test_seams.py watches them."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def project_supervised_positions_only() -> None:
    """On a CPU, send only the positions that are learned through the LM head, as TRL itself does on GPUs.

    TRL's fused head scores every position on devices without Triton, because a changing number of positions would be
    compiled anew each time on some of them (Neuron). A CPU compiles nothing, and there the head is a large part of a
    small model's step. The losses are the same.
    """
    from trl.trainer import utils

    upstream: Any = utils._use_triton

    def compact(device: Any) -> bool:
        return device.type == "cpu" or upstream(device)

    utils._use_triton = compact
