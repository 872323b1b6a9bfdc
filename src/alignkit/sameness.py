"""Whether two runs came to the same: weights, checkpoints, data order, metrics and scores, bit for bit."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.checkpoints import by_step, read_progress
from alignkit.runs import Run

TIMES = ("_runtime", "_per_second", "_preparation_time", "step_time", "_wait_s")
"""Ends of the names of quantities that tell how fast a machine was, and nothing of the result."""
BLOCK = 2**22
Line = dict[str, Any]


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
    count = 0
    for name in names:
        if not (one / name).exists() or not (other / name).exists():
            return Verdict("weights", False, f"only one of the runs has {name}")
        then, now = tensors(one / name), tensors(other / name)
        if then.keys() != now.keys():
            return Verdict("weights", False, f"{name}: the names of the tensors differ")
        if differing := [key for key in then if not same_bytes(then[key], now[key])]:
            return Verdict("weights", False, f"{name}: {how_far(then, now, differing)}")
        count += len(then)
    return Verdict("weights", True, f"{count} tensors")


def _results(run: Path) -> Iterator[Path]:
    for folder in (run / "model", run / "critic"):
        yield from folder.rglob("*.safetensors")


@dataclass(frozen=True)
class Tensor:
    file: Path
    kind: str  # dtype and shape
    first: int
    last: int


def tensors(*files: Path) -> dict[str, Tensor]:
    """Where each tensor of these safetensors files lies; nothing is loaded."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = Tensor(path, f"{entry['dtype']}{entry['shape']}", first, last)
    return found


def same_bytes(one: Tensor, other: Tensor) -> bool:
    if one.kind != other.kind:
        return False
    with one.file.open("rb") as mine, other.file.open("rb") as theirs:
        mine.seek(one.first)
        theirs.seek(other.first)
        left = one.last - one.first
        while left > 0:
            size = min(BLOCK, left)
            if mine.read(size) != theirs.read(size):
                return False
            left -= size
    return True


def how_far(then: dict[str, Tensor], now: dict[str, Tensor], differing: list[str]) -> str:
    """The largest absolute difference, and where; torch reads the types that numpy lacks."""
    safetensors: Any = importlib.import_module("safetensors")
    worst, place = 0.0, differing[0]
    for name in differing:
        if then[name].kind != now[name].kind:
            return f"{name} is {then[name].kind} in one and {now[name].kind} in the other"
        pair = []
        for tensor in (then[name], now[name]):
            with safetensors.safe_open(tensor.file, framework="pt") as file:
                pair.append(file.get_tensor(name).double())
        distance = float((pair[0] - pair[1]).abs().max())
        if not distance <= worst:  # NaN too
            worst, place = distance, name
    return f"{len(differing)} of {len(then)} tensors differ, by {worst:.3g} at most ({place})"


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
        then, now = tensors(one), tensors(other)
        return then.keys() == now.keys() and all(same_bytes(then[key], now[key]) for key in then)
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
        keys = [key for key in one if not (isinstance(key, str) and is_time(key))]
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in keys)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) or (one != one and other != other)


# ---------------------------------------------------------------------- what was logged and scored
def is_time(key: str) -> bool:
    """Whether a logged quantity tells how fast a machine was."""
    return key.endswith(TIMES) or key.startswith("profiling/")


def differing_line(then: list[Line], now: list[Line]) -> tuple[Line, Line, str] | None:
    """The first pair of lines that differ in more than times, and a key in which they do: the loss, if that is one."""
    for before, after in zip(then, now, strict=False):
        for key in sorted({*before, *after}, key=lambda key: (key != "loss", key)):
            if not is_time(key) and before.get(key) != after.get(key):
                return before, after, key
    return None


def scores_by_key(run: Run) -> dict[tuple[str, ...], Any]:
    keys = ("name", "split", "model", "metric", "slice")
    return {tuple(str(score.get(key)) for key in keys): score.get("value") for score in run.scores()}


def _metrics(one: Run, other: Run) -> Verdict:
    then, now = one.metrics(), other.metrics()
    if found := differing_line(then, now):
        before, after, key = found
        told = f"{key} is {before.get(key)} and {after.get(key)}"
        return Verdict("metrics", False, f"step {before.get('step')}: {told}")
    if len(then) != len(now):
        return Verdict("metrics", False, f"{len(then)} lines and {len(now)} lines")
    return Verdict("metrics", True, f"{len(then)} lines")


def _scores(one: Run, other: Run) -> Verdict:
    then, now = scores_by_key(one), scores_by_key(other)
    for key in {**then, **now}:
        if then.get(key) != now.get(key):
            return Verdict("scores", False, f"{', '.join(key)}: {then.get(key)} and {now.get(key)}")
    return Verdict("scores", True, f"{len(then)} scores")
