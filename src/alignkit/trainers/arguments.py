"""From a recipe's `training:` to the live config class of the method's trainer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.models import Precision
from alignkit.recipe import Recipe

if TYPE_CHECKING:
    from transformers import TrainingArguments


def build_arguments(
    recipe: Recipe,
    config_class: type[TrainingArguments],
    output_dir: Path,
    precision: Precision,
    *,
    has_eval: bool,
    world_size: int = 1,
    **derived: Any,
) -> TrainingArguments:
    """The method's live config: what the recipe gives, alignkit's differing defaults, and what follows from the device.

    Whatever the live class refuses is the user's to mend (the snapshot may be of other versions): a `UserError`.

    Args:
        has_eval: whether there is eval data; without it nothing is evaluated, whatever the recipe's defaults say.
        world_size: processes that share a global batch.
        derived: further fields that the method derives itself (masking, reward weights, …).
    """
    values: dict[str, Any] = recipe.training.arguments() | {
        "output_dir": str(output_dir),
        "seed": recipe.seed,
        "bf16": precision.bf16,
        "fp16": precision.fp16,
        "use_cpu": precision.use_cpu,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_accumulation_steps": accumulation_steps(recipe, world_size),
    }
    if recipe.head == "causal_lm":
        values.setdefault("ddp_find_unused_parameters", False)  # they have none, and looking costs each step
    if not has_eval:
        values["eval_strategy"] = "no"
    known = {field.name for field in dataclasses.fields(config_class)}
    missing = [key for key in recipe.training.given() if key in values and key not in known]
    if missing:
        raise UserError(
            [
                recipe.problem(f"training.{key}", f"the installed {config_class.__name__} has no such field")
                for key in missing
            ]
        )
    try:
        return config_class(**{key: value for key, value in {**values, **derived}.items() if key in known})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(recipe.problem("training", f"{config_class.__name__} refuses this: {error}")) from error


def accumulation_steps(recipe: Recipe, world_size: int) -> int:
    """Micro-batches a process runs for one optimizer step: global batch / (micro-batch × processes)."""
    resolved = recipe.training.resolved()
    total = resolved.get("global_batch_size")
    if total is None:
        return int(resolved.get("gradient_accumulation_steps") or 1)
    together = int(resolved["per_device_train_batch_size"]) * world_size
    if total % together:
        raise UserError(
            recipe.problem(
                "training.global_batch_size",
                f"{total} is not a multiple of {together} "
                f"(per_device_train_batch_size {resolved['per_device_train_batch_size']} × {world_size} processes)",
            )
        )
    return total // together
