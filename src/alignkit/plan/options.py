"""What would make a recipe fit: each change is made to the recipe and simulated. And the largest micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.gpus import Gpu
from alignkit.plan.fit import needed, smallest_gpu, verdict
from alignkit.recipe import Recipe

if TYPE_CHECKING:
    from alignkit.plan.run import Plan, Planner

Reload = Callable[[list[str]], Recipe]
"""The recipe once more, with further changes (`section.field=value`)."""
GPUS_TOGETHER = 8


def options(planner: Planner, found: Plan, gpu: Gpu | None, reload: Reload) -> list[dict[str, Any]]:
    """Each change that may help, its peak in bytes, and where it fits (on `gpu`, if one was chosen); least first."""
    results = []
    for change, more in _changes(planner.recipe, found):
        planner.say(f"simulating: {change}")
        try:
            changed = planner.plan(reload(more))
        except UserError:
            continue  # the recipe and the change do not go together
        results.append(_result(change, changed.peak_memory_bytes, gpu, more))
    if planner.num_gpus == 1:
        shared = planner.sharded(found, "fsdp2", GPUS_TOGETHER)
        results.append(_result(f"{GPUS_TOGETHER} GPUs under FSDP2 or ZeRO-3 (modelled)", shared, gpu, []))
    kept = [one for one in results if one["peak_memory_bytes"] < found.peak_memory_bytes]
    return sorted(kept, key=lambda one: int(one["peak_memory_bytes"]))


def _result(change: str, peak: int, gpu: Gpu | None, sets: list[str]) -> dict[str, Any]:
    word = None if gpu is None else verdict(peak, gpu)
    where = smallest_gpu(peak)
    return {"change": change, "set": sets, "peak_memory_bytes": peak, "verdict": word, "smallest_gpu": where}


def _changes(recipe: Recipe, found: Plan) -> Iterator[tuple[str, list[str]]]:
    training = recipe.training.resolved()
    rows, accumulated = int(training["per_device_train_batch_size"]), found.accumulation
    if rows > 1 and training.get("num_generations") is None:
        yield "micro-batch of 1, the same global batch", _micro_batch(training, 1, rows * accumulated)
    checkpointing = "training.gradient_checkpointing=true"
    if not training.get("gradient_checkpointing"):
        yield "gradient checkpointing", [checkpointing]
        if rows > 1 and training.get("num_generations") is None:
            both = [*_micro_batch(training, 1, rows * accumulated), checkpointing]
            yield "micro-batch of 1 with gradient checkpointing", both
    if training.get("max_length"):
        yield "rows half as long", [f"training.max_length={int(training['max_length']) // 2}"]
    if recipe.adapter is None:
        yield "8-bit AdamW", ["training.optim=adamw_8bit"]
        yield "LoRA, r=16", ["adapter.r=16"]
    if recipe.quantization is None and recipe.model.init is None:
        lora = [] if recipe.adapter is not None else ["adapter.r=16"]
        yield "4-bit base with LoRA", ["quantization.load_in_4bit=true", *lora]
        yield (
            "4-bit base with LoRA and gradient checkpointing",
            ["quantization.load_in_4bit=true", *lora, checkpointing],
        )


def _micro_batch(training: dict[str, Any], rows: int, together: int) -> list[str]:
    """The changes for micro-batches of `rows`, with `together` rows a step on each device."""
    size = f"training.per_device_train_batch_size={rows}"
    if training.get("global_batch_size") is not None:
        return [size]
    return [size, f"training.gradient_accumulation_steps={together // rows}"]


def largest_batch(planner: Planner, gpu: Gpu, reload: Reload) -> int:
    """The largest micro-batch that fits `gpu`; 0 where not even one row does.

    Memory grows evenly with the rows of a batch, or nearly: two sizes say about where the limit is, and the sizes
    around it are simulated.
    """
    training = planner.recipe.training.resolved()
    unit = int(training.get("num_generations") or 1)
    known: dict[int, int] = {}

    def peak(count: int) -> int:
        if count not in known:
            size = [f"training.per_device_train_batch_size={count * unit}", "training.global_batch_size=null"]
            planner.say(f"simulating a micro-batch of {count * unit}")
            known[count] = planner.plan(reload(size)).peak_memory_bytes
        return known[count]

    def fits(count: int) -> bool:
        return needed(peak(count)) <= gpu.memory

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):  # along the line through what is known, until it is too much
        slope = (peak(high) - peak(low)) / (high - low)
        room = gpu.memory - needed(peak(high))
        low, high = high, high + max(1, int(room / (1.05 * max(slope, 1.0))))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit
