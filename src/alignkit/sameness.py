"""Whether two runs came to the same: weights, checkpoints, data order, metrics and scores, bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.checkpoints import by_step, read_progress
from alignkit.runs import Run

TIMES = re.compile(r"runtime$|per_second$|^(step_time|reward_wait_s)$|time_s$|/wait")
"""Keys of metrics that say how long something took, which is never the same twice."""


@dataclass(frozen=True)
class Verdict:
    """One part of two runs, compared."""

    part: str
    same: bool
    detail: str


def compare_runs(one: Path, other: Path) -> list[Verdict]:
    """A verdict for each part that either of the run folders has."""
    found = [_weights(one, other)]
    first, second = (by_step(Run(folder).checkpoints_dir) for folder in (one, other))
    if first and second:
        found += _checkpoints(first[0], second[0])
    found.append(_metrics(Run(one), Run(other)))
    if Run(one).scores() or Run(other).scores():
        found.append(_scores(Run(one), Run(other)))
    return found


# ---------------------------------------------------------------------- weights
def _weights(one: Path, other: Path) -> Verdict:
    """Every safetensors file of the results: the model or adapter, and what lies beside it, such as a critic."""
    names = sorted({str(file.relative_to(run)) for run in (one, other) for file in _results(run)})
    if not names:
        return Verdict("weights", False, "neither run has a result")
    count, differing, largest = 0, [], 0.0
    for name in names:
        if not (one / name).exists() or not (other / name).exists():
            return Verdict("weights", False, f"only one of the runs has {name}")
        tensors, others = _tensors(one / name), _tensors(other / name)
        if tensors.keys() != others.keys():
            return Verdict("weights", False, f"{name}: the names of the tensors differ")
        for key, tensor in tensors.items():
            count += 1
            if not _equal(tensor, others[key]):
                differing.append(key)
                largest = max(largest, _distance(tensor, others[key]))
    if differing:
        detail = f"{len(differing)} of {count} tensors differ, by up to {largest:.3g}: {differing[0]}, …"
        return Verdict("weights", False, detail)
    return Verdict("weights", True, f"{count} tensors")


def _results(run: Path) -> Iterator[Path]:
    for folder in (run / "model", run / "critic"):
        yield from folder.rglob("*.safetensors")


def _tensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(file))


def _distance(one: Any, other: Any) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one.double() - other.double()).abs().max())


# ---------------------------------------------------------------------- the newest checkpoint of each
def _checkpoints(first: tuple[int, Path], second: tuple[int, Path]) -> Iterator[Verdict]:
    (step, one), (other_step, other) = first, second
    if step != other_step:
        yield Verdict("checkpoint", False, f"one ends at step {step}, the other at step {other_step}")
        return
    for part, pattern in (
        ("optimizer", "optimizer*"),
        ("scheduler", "scheduler*"),
        ("random numbers", "rng_state*"),
        ("rollouts", "rollout_state*"),
        ("critic", "critic*"),
    ):
        names = sorted({file.name for folder in (one, other) for file in folder.glob(pattern) if file.is_file()})
        if names:
            different = next((name for name in names if not _same_file(one / name, other / name)), None)
            yield Verdict(part, different is None, f"step {step}" if different is None else f"{different} differs")
    orders = [[rank["order"] for rank in read_progress(folder)] for folder in (one, other)]
    tokens = [sum(rank["tokens_seen"] for rank in read_progress(folder)) for folder in (one, other)]
    told = f"digest {orders[0][0][:12]}" if orders[0] == orders[1] and orders[0] else "other examples, or another order"
    yield Verdict("data order", orders[0] == orders[1], told)
    yield Verdict(
        "tokens", tokens[0] == tokens[1], f"{tokens[0]:,}" + ("" if tokens[0] == tokens[1] else f" and {tokens[1]:,}")
    )


def _same_file(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return False
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix == ".safetensors":
        tensors, others = _tensors(one), _tensors(other)
        return tensors.keys() == others.keys() and all(_equal(tensors[key], others[key]) for key in tensors)
    if one.suffix not in (".pt", ".pth", ".bin"):
        return False
    import torch

    # Checkpoints of this machine's own runs: the random numbers' states are pickled objects of numpy and Python.
    values = [torch.load(file, map_location="cpu", weights_only=False) for file in (one, other)]
    return _equal(*values)


def _equal(one: Any, other: Any) -> bool:
    """Bit for bit, through mappings and sequences; NaN equals NaN. Times are left out."""
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return False
        raw = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
        return bool(torch.equal(*raw))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        keys = [key for key in one if not (isinstance(key, str) and TIMES.search(key))]
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in keys)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) or (one != one and other != other)


# ---------------------------------------------------------------------- what was logged and scored
def _metrics(one: Run, other: Run) -> Verdict:
    lines, others = (
        [{key: value for key, value in line.items() if not TIMES.search(key)} for line in run.metrics()]
        for run in (one, other)
    )
    for line, line_too in zip(lines, others, strict=False):
        if line != line_too:
            keys = [key for key in {**line, **line_too} if line.get(key) != line_too.get(key)]
            values = f"{line.get(keys[0])} and {line_too.get(keys[0])}"
            return Verdict("metrics", False, f"step {line.get('step')}: {keys[0]} is {values}")
    if len(lines) != len(others):
        return Verdict("metrics", False, f"{len(lines)} lines and {len(others)} lines")
    return Verdict("metrics", True, f"{len(lines)} lines")


def _scores(one: Run, other: Run) -> Verdict:
    def keyed(run: Run) -> dict[str, Any]:
        kept = ("name", "model", "metric", "slice", "split")
        return {json.dumps([score.get(key) for key in kept]): score["value"] for score in run.scores()}

    scores, others = keyed(one), keyed(other)
    different = [key for key in {**scores, **others} if scores.get(key) != others.get(key)]
    if different:
        name = ", ".join(str(part) for part in json.loads(different[0]) if part)
        return Verdict("scores", False, f"{name}: {scores.get(different[0])} and {others.get(different[0])}")
    return Verdict("scores", True, f"{len(scores)} scores")
