"""What a run writes down about itself: the manifest before and after training, and a few lines for the reader."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from alignkit.launch import Job
from alignkit.methods.base import Stage
from alignkit.model_folders import weights_fingerprint
from alignkit.models import count_parameters
from alignkit.models.start import recipe_start
from alignkit.plan.beside import compare
from alignkit.recipe import dump
from alignkit.runs import git_state
from alignkit.trainers import Progress

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "evaluate", "tokenizers")


def write_beginnings(job: Job, stage: Stage, resume: str) -> None:
    """recipe.yaml, the manifest's first half, and the state, before the first step."""
    run, recipe, data = job.run, job.recipe, stage.data
    assert data is not None and stage.model is not None
    run.checkpoints_dir.mkdir(exist_ok=True)
    run.recipe_path.write_text(dump(recipe), encoding="utf-8")
    total, trainable = count_parameters(stage.model)
    run.update_manifest(
        {
            "alignkit": _version("alignkit"),
            "method": recipe.method,
            "command": job.command,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}},
            "git": git_state(recipe.base_dir),
            "hardware": _hardware(stage),
            "seed": recipe.seed,
            "data": data.counts,
            "fingerprints": {
                "recipe": recipe.fingerprint(),
                "base": _base_fingerprint(job),
                "data": data.fingerprint,
                "template": None if data.template is None else data.template.template_fingerprint,
            },
            "masking": None if data.template is None else asdict(data.template),
            "model": {
                "name_or_path": job.start or recipe.model.model_name_or_path,
                "adapter": recipe.adapter is not None,
                "parameters": total,
                "trainable_parameters": trainable,
                "dtype": str(stage.precision.frozen_dtype).removeprefix("torch."),
                "precision_notes": stage.precision.notes,
            },
        }
    )
    run.write_state("started", resume=resume)


def _base_fingerprint(job: Job) -> str | None:
    """Of the full model that training starts from, so that a merge can tell whether it still has that one."""
    start = recipe_start(job.recipe, job.start)
    return None if start is None else weights_fingerprint(start.base, start.base_revision)


def _hardware(stage: Stage) -> dict[str, Any]:
    device = stage.precision.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "platform": platform.platform()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def say_plan(stage: Stage, trainer: Any, say: Callable[[str], None]) -> None:
    """What will be trained on what, in a few lines."""
    assert stage.data is not None
    counts, (total, trainable) = stage.data.counts["train"], count_parameters(trainer.model)
    for note in (*stage.precision.notes, *(stage.data.template.notes if stage.data.template else ())):
        say(note)
    dropped = "".join(f", {number:,} dropped ({reason})" for reason, number in (counts.get("dropped") or {}).items())
    left = f", {counts['not_drawn']:,} left out by the weights" if counts.get("not_drawn") else ""
    examples = counts.get("examples")
    say("data: streamed" if examples is None else f"data: {examples:,} examples{dropped}{left}")
    if counts.get("tokens"):
        share = counts["supervised_tokens"] / counts["tokens"]
        learned = f"{share:.0%} of them trained on" if share else "all of them prompts"
        packed = counts.get("packed_rows")
        rows = f", packed into {packed:,} rows ({counts['fill']:.0%} full)" if packed else ""
        cut = f", {counts['truncated']:,} examples truncated" if counts.get("truncated") else ""
        say(f"tokens: {counts['tokens']:,}, {learned}{cut}{rows}")
    if labels := counts.get("labels"):
        shown = ", ".join(f"{name} {number:,}" for name, number in list(labels.items())[:10])
        say(f"labels: {shown}{', …' if len(labels) > 10 else ''}")
    say(f"model: {total:,} parameters, {trainable:,} trained; {stage.precision.device.type}")


def write_endings(
    job: Job, stage: Stage, trainer: Any, live: Progress, begun: float, resident: int, warnings: list[str]
) -> None:
    """The manifest's second half: time, memory, tokens, warnings. Times are in seconds, memory in bytes.

    Args:
        resident: what the process held before its model was built, in bytes.
    """
    now, trained, seconds = time.time(), trainer.tokens_seen, live.training_seconds
    on_gpu = torch.cuda.is_available() and trainer.args.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    above, above_of = (
        (peak, "device tensors") if on_gpu else (max(peak - resident, 0), "the process, from the model on")
    )
    job.run.update_manifest(
        {
            "result": {
                "wall_time_s": round(now - begun, 2),
                "train_time_s": round(seconds, 2),
                "first_step_s": round(live.first_step_at - begun, 2) if live.first_step_at else None,
                "first_step_at": live.first_step_at,
                "steps": trainer.state.global_step,
                "tokens": trained,
                "tokens_per_second": round(trained / max(seconds, 1e-9), 1),
                "peak_memory_bytes": peak,
                "peak_memory_of": "device tensors" if on_gpu else "process (resident)",
                "peak_memory_of_training_bytes": above,
                **(compare(stage, above, above_of) or {}),
            },
            "warnings": warnings,
        }
    )
