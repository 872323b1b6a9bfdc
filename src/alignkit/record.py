"""What a run writes down about itself: the manifest before and after training, and a few lines for the reader."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from alignkit import processes
from alignkit.circumstances import hardware, inputs, package_version, variables, versions
from alignkit.data.cache import tokenizer_fingerprint
from alignkit.launch import Job
from alignkit.methods.base import Stage
from alignkit.model_folders import weights_fingerprint
from alignkit.models import count_parameters
from alignkit.models.start import recipe_start
from alignkit.plan.beside import compare, planned
from alignkit.recipe import dump
from alignkit.runs import git_state
from alignkit.trainers import Progress


def write_beginnings(job: Job, stage: Stage, resume: str) -> None:
    """recipe.yaml, the manifest's first half, and the state, before the first step."""
    run, recipe, data = job.run, job.recipe, stage.data
    assert data is not None and stage.model is not None
    run.checkpoints_dir.mkdir(exist_ok=True)
    run.recipe_path.write_text(dump(recipe), encoding="utf-8")
    total, trainable = count_parameters(stage.model)
    run.update_manifest(
        {
            "alignkit": package_version("alignkit"),
            "method": recipe.method,
            "command": job.command,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "git": git_state(recipe.base_dir),
            "hardware": _hardware(stage),
            "settings": _settings(stage),
            "seed": recipe.seed,
            "data": data.counts,
            "fingerprints": {
                "recipe": recipe.fingerprint(),
                "base": _base_fingerprint(job),
                "data": data.fingerprint,
                "template": None if data.template is None else data.template.template_fingerprint,
                "tokenizer": None if stage.tokenizer is None else tokenizer_fingerprint(stage.tokenizer),
            },
            "inputs": inputs(recipe, job.start, job.results),
            "start": _absolute(job.start) if job.start else None,
            "results": {named: _absolute(folder) for named, folder in job.results.items()},
            "masking": None if data.template is None else asdict(data.template),
            "model": {
                "name_or_path": job.start or recipe.model.model_name_or_path,
                "adapter": recipe.adapter is not None,
                "parameters": total,
                "trainable_parameters": trainable,
                "flops_per_token": _flops_per_token(stage.model),
                "dtype": str(stage.precision.frozen_dtype).removeprefix("torch."),
                "precision_notes": stage.precision.notes,
            },
        }
    )
    run.write_state("started", resume=resume)


def _absolute(folder: str) -> str:
    return str(Path(folder).absolute())


def _base_fingerprint(job: Job) -> str | None:
    """Of the full model that training starts from, so that a merge can tell whether it still has that one."""
    start = recipe_start(job.recipe, job.start)
    return None if start is None else weights_fingerprint(start.base, start.base_revision)


def _hardware(stage: Stage) -> dict[str, Any]:
    device, found = stage.precision.device, hardware()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else found["cpu"]
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), **found}


def _settings(stage: Stage) -> dict[str, Any]:
    """What decides, beside seeds and versions, whether the same numbers come out again."""
    config = getattr(stage.model, "config", None)
    return {
        "processes": processes.world_size(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": {"matmul": torch.backends.cuda.matmul.fp32_precision, "cudnn": torch.backends.cudnn.fp32_precision},
        "attention": getattr(config, "_attn_implementation", None),
        "autocast": "bf16" if stage.precision.bf16 else "fp16" if stage.precision.fp16 else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "environment": variables(),
    }


def _flops_per_token(model: Any) -> int:
    """4 × the parameters (forward, and back to the activations) + 2 × the trained ones; a lookup costs nothing.

    Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, whose 6 N is the case in which all are
    trained. An embedding that is the head as well is multiplied there, and counts.
    """
    total, trainable = count_parameters(model)
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tied = embedding is not None and head is not None and head.weight is embedding.weight
    looked_up, learned = (0, 0) if embedding is None or tied else count_parameters(embedding)
    return 4 * (total - looked_up) + 2 * (trainable - learned)


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
                **_flops(job.run.manifest, trainer, trained),
                "tokens_per_second": round(trained / max(seconds, 1e-9), 1),
                "peak_memory_bytes": peak,
                "peak_memory_of": "device tensors" if on_gpu else "process (resident)",
                "peak_memory_of_training_bytes": above,
                "weights": weights_fingerprint(str(job.run.model_dir), exact=True),
                **(compare(stage, above, above_of) or {}),
            },
            "warnings": warnings,
        }
    )


def _flops(manifest: dict[str, Any], trainer: Any, tokens: int) -> dict[str, Any]:
    """What training computed, in floating point operations, and what that counts: upstream's count is 0 online."""
    passes = getattr(trainer.args, "num_iterations", 1)  # of methods that learn from their own completions
    return {
        "flops": tokens * manifest["model"]["flops_per_token"] * passes,
        "flops_of": "tokens × flops_per_token"
        + (f" × {passes} passes" if passes > 1 else "")
        + ": forward and backward through the trained model; attention scores, padding, recomputed activations, "
        "generation, reference and reward models are not counted",
    }


def write_out_of_memory(stage: Stage) -> None:
    """What the device has, and what the plan counts, into the manifest of a run whose memory ran out."""
    device = stage.precision.device
    on_gpu = device.type == "cuda"
    held = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    stage.run.update_manifest({"out_of_memory": {"device_memory_bytes": held, **(planned(stage) or {})}})
