"""What does not go together in a recipe, whatever its method. Each rule names the fields it reads; see `rule`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignkit.recipe import generation
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.rule import Finding, has_eval, rule, value
from alignkit.recipe.sections import Source


# ---------------------------------------------------------------------- model
@rule("model")
def one_origin(recipe: Recipe) -> Iterator[Finding]:
    model = recipe.model
    given = [name for name in ("model_name_or_path", "init", "from_recipe") if getattr(model, name) is not None]
    if len(given) > 1:
        yield f"model.{given[1]}", f"the model comes from one place, and {given[0]} names one already", "leave one out"
    elif not given and model.config is None:
        near = "give model_name_or_path, or init with config, or from_recipe"
        yield "model", "nothing says where the model comes from", near
    if model.init is not None and model.config is None:
        yield (
            "model.init",
            "a model from scratch needs `config`",
            "give its fields (model_type, hidden_size, …) or a path",
        )
    if model.config is not None and model.init is None:
        yield "model.config", "only a model from scratch takes a config", "add `init: random`, or leave it out"


@rule("model", "quantization")
def quantized_from_scratch(recipe: Recipe) -> Iterator[Finding]:
    if recipe.quantization is not None and recipe.model.init is not None:
        yield "quantization", "random weights cannot be quantised", "leave `quantization` out"


@rule("quantization")
def one_width(recipe: Recipe) -> Iterator[Finding]:
    section = recipe.quantization
    if section is None:
        return
    if section.load_in_4bit and section.load_in_8bit:
        yield "quantization.load_in_8bit", "8-bit and 4-bit together", "keep one of load_in_8bit and load_in_4bit"
    elif not section.load_in_4bit and not section.load_in_8bit:
        hint = "say load_in_4bit: true or load_in_8bit: true, or leave `quantization` out"
        yield "quantization", "neither 4-bit nor 8-bit is asked for", hint


# ---------------------------------------------------------------------- data
@rule("data.train", "data.eval")
def one_place_a_source(recipe: Recipe) -> Iterator[Finding]:
    if recipe.data is not None:
        yield from _places("data.train", recipe.data.train)
        yield from _places("data.eval", recipe.data.eval or [])


@rule("evaluation")
def one_place_a_task_source(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        yield from _places(f"evaluation.{index}.data", task.data or [])


def _places(name: str, sources: Sequence[Source]) -> Iterator[Finding]:
    for index, one in enumerate(sources):
        at = f"{name}.{index}"
        if one.path is None and one.generate is None:
            yield at, "a source needs `path` or `generate`", None
        elif one.path is not None and one.generate is not None:
            yield f"{at}.generate", "a source has a path or a generator, not both", "leave one out"


@rule("data.train", "data.eval")
def weights_for_all(recipe: Recipe) -> Iterator[Finding]:
    lists = {} if recipe.data is None else {"data.train": recipe.data.train, "data.eval": recipe.data.eval or []}
    for place, sources in lists.items():
        with_weight = [one.weight is not None for one in sources]
        if any(with_weight) and not all(with_weight):
            at = f"{place}.{with_weight.index(False)}"
            yield at, "has no weight, and other sources do", "give every source a weight, or none"


@rule("data.eval", "data.eval_fraction", "data.streaming")
def one_eval_split(recipe: Recipe) -> Iterator[Finding]:
    data = recipe.data
    if data is None or data.eval_fraction is None:
        return
    if data.eval is not None:
        yield "data.eval_fraction", "the eval split has its own sources in data.eval", "keep one of the two"
    if data.streaming:
        hint = "give data.eval sources of its own"
        yield "data.eval_fraction", "a stream has no known length to take a share of", hint


@rule("data.streaming", "training.max_steps")
def schedule_without_length(recipe: Recipe) -> Iterator[Finding]:
    if recipe.data is not None and recipe.data.streaming and (value(recipe, "max_steps") or 0) < 1:
        message = "a stream has no known length, so the learning rate's schedule has none"
        yield "data.streaming", message, "say training.max_steps"


# ---------------------------------------------------------------------- evaluation
@rule("evaluation")
def names_differ(recipe: Recipe) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, task in enumerate(recipe.evaluation):
        if task.name in seen:
            yield f"evaluation.{index}.name", f"there is another task named {task.name!r}", "give each its own name"
        seen.add(task.name)


@rule("evaluation", "data.eval", "data.eval_fraction")
def task_without_data(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        if task.data is None and task.task != "lm_eval" and not has_eval(recipe):
            hint = "give it `data`, or give data.eval or data.eval_fraction"
            yield f"evaluation.{index}", f"{task.name} has no data, and the recipe has no eval split", hint


@rule("evaluation")
def generation_fits(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        for name, message, hint in generation.contradictions(task.generation.arguments()):
            yield f"evaluation.{index}.generation.{name}", message, hint


@rule("evaluation")
def window_of_perplexity(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        if task.stride is not None and task.max_length is not None and task.stride > task.max_length:
            message = f"a stride of {task.stride} leaves gaps between windows of {task.max_length}"
            yield f"evaluation.{index}.stride", message, None


# ---------------------------------------------------------------------- training
@rule("training.global_batch_size", "training.per_device_train_batch_size", "training.gradient_accumulation_steps")
def batches_divide(recipe: Recipe) -> Iterator[Finding]:
    """With one process; a launch of several checks again with their number."""
    training = recipe.training
    total, per_device = training.global_batch_size, value(recipe, "per_device_train_batch_size")
    if total is None or per_device is None:
        return
    if total % per_device:
        fitting = max(size for size in range(1, per_device + 1) if total % size == 0)
        default = "" if "per_device_train_batch_size" in training.model_fields_set else " by default"
        message = f"{total} is not a multiple of per_device_train_batch_size, which is {per_device}{default}"
        yield "training.global_batch_size", message, f"say per_device_train_batch_size: {fitting}"
    elif "gradient_accumulation_steps" in training.model_fields_set:
        together = per_device * training.gradient_accumulation_steps
        if total % together:
            message = (
                f"{per_device} a device × {training.gradient_accumulation_steps} steps are {together}, "
                f"which does not go into global_batch_size, {total}"
            )
            yield "training.gradient_accumulation_steps", message, "leave it out: it follows from global_batch_size"


@rule("training.packing", "training.max_length")
def packing_possible(recipe: Recipe) -> Iterator[Finding]:
    if not value(recipe, "packing"):
        return
    if not recipe.can_pack:
        yield "training.packing", f"{recipe.method} cannot pack its rows", "leave it out"
    elif value(recipe, "max_length") is None:
        yield "training.packing", "packed rows need a length", "say training.max_length"


@rule("training.warmup_steps", "training.max_steps")
def warmup_fits(recipe: Recipe) -> Iterator[Finding]:
    warmup, steps = value(recipe, "warmup_steps") or 0, value(recipe, "max_steps") or 0
    if warmup > 1 and warmup != int(warmup):
        hint = "below 1 it is a share of all steps, from 1 on a whole number of them"
        yield "training.warmup_steps", f"{warmup:g} is neither a share nor a number of steps", hint
    elif steps > 0 and warmup > steps:
        yield "training.warmup_steps", f"{warmup:g} steps of warm-up, and only {steps} steps (max_steps)", None


@rule("training.logging_steps", "training.save_steps", "training.eval_steps")
def whole_intervals(recipe: Recipe) -> Iterator[Finding]:
    for name in ("logging_steps", "save_steps", "eval_steps"):
        steps = value(recipe, name)
        if steps is not None and steps > 1 and steps != int(steps):
            hint = "below 1 it is a share of all steps, from 1 on a whole number of them"
            yield f"training.{name}", f"{steps:g} is neither a share nor a number of steps", hint


@rule("training.eval_strategy", "data.eval", "data.eval_fraction")
def evaluation_needs_data(recipe: Recipe) -> Iterator[Finding]:
    given = "eval_strategy" in recipe.training.model_fields_set
    if given and value(recipe, "eval_strategy") != "no" and recipe.data is not None and not has_eval(recipe):
        yield "training.eval_strategy", "there is nothing to evaluate on", "give data.eval or data.eval_fraction"


NEEDS_EVALUATION = (
    "training.eval_strategy",
    "training.load_best_model_at_end",
    "training.metric_for_best_model",
    "training.early_stopping_patience",
    "training.lr_scheduler_type",
    "data.eval",
    "data.eval_fraction",
)


@rule(*NEEDS_EVALUATION)
def best_needs_evaluation(recipe: Recipe) -> Iterator[Finding]:
    training = recipe.training
    wanting = {
        "load_best_model_at_end": bool(value(recipe, "load_best_model_at_end")),
        "metric_for_best_model": value(recipe, "metric_for_best_model") is not None,
        "early_stopping_patience": training.early_stopping_patience is not None,
        "lr_scheduler_type": value(recipe, "lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"),
    }
    for name, wants in wanting.items():
        if not wants:
            continue
        if recipe.data is not None and not has_eval(recipe):
            yield f"training.{name}", "needs eval data", "give data.eval or data.eval_fraction"
        elif value(recipe, "eval_strategy") == "no":
            yield f"training.{name}", "needs evaluations while training", "say training.eval_strategy: steps or epoch"


@rule("training.early_stopping_patience", "training.metric_for_best_model", "training.load_best_model_at_end")
def patience_needs_metric(recipe: Recipe) -> Iterator[Finding]:
    training = recipe.training
    if training.early_stopping_patience is None:
        return
    if value(recipe, "metric_for_best_model") is None and not value(recipe, "load_best_model_at_end"):
        hint = "say training.metric_for_best_model, for example eval_loss"
        yield "training.early_stopping_patience", "nothing says which metric is to get better", hint


@rule(
    "training.load_best_model_at_end",
    *("training.eval_strategy", "training.save_strategy", "training.eval_steps", "training.save_steps"),
    *("training.logging_steps", "data.eval", "data.eval_fraction"),
)
def best_is_saved(recipe: Recipe) -> Iterator[Finding]:
    training = recipe.training
    if not has_eval(recipe):
        return
    if (
        not value(recipe, "load_best_model_at_end")
        or training.save_strategy == "best"
        or training.eval_strategy == "no"
    ):
        return
    if training.eval_strategy != training.save_strategy:
        message = (
            f"the best model can only be kept if it is saved when it is measured: eval_strategy is "
            f"{training.eval_strategy}, save_strategy {training.save_strategy}"
        )
        yield "training.load_best_model_at_end", message, "make them the same, or say save_strategy: best"
    elif training.eval_strategy == "steps":
        yield from _steps_match(training.eval_steps or training.logging_steps, training.save_steps)


def _steps_match(measured: float, saved: float) -> Iterator[Finding]:
    hint = f"say save_steps: {measured:g} or a multiple of it"
    if (measured < 1) != (saved < 1):
        message = (
            f"eval_steps ({measured:g}) and save_steps ({saved:g}) must both be shares or both be numbers of steps"
        )
        yield "training.load_best_model_at_end", message, hint
    elif round(saved * 1_000_000) % round(measured * 1_000_000):
        message = f"save_steps ({saved:g}) is not a multiple of eval_steps ({measured:g})"
        yield "training.load_best_model_at_end", message, hint


@rule("training.gradient_checkpointing", "training.activation_checkpointing")
def one_checkpointing(recipe: Recipe) -> Iterator[Finding]:
    old, new = value(recipe, "gradient_checkpointing"), value(recipe, "activation_checkpointing")
    if old is not None and new is not None and old != new:
        message = "activation_checkpointing is its new name, and says otherwise"
        yield "training.gradient_checkpointing", message, "keep one of the two"


@rule("training.dataloader_num_workers", "training.dataloader_prefetch_factor")
def prefetch_needs_workers(recipe: Recipe) -> Iterator[Finding]:
    if value(recipe, "dataloader_prefetch_factor") is not None and not value(recipe, "dataloader_num_workers"):
        yield (
            "training.dataloader_prefetch_factor",
            "needs training.dataloader_num_workers",
            "say at least 1, or leave it out",
        )


@rule("training.push_to_hub", "training.hub_model_id")
def hub_words(recipe: Recipe) -> Iterator[Finding]:
    given = recipe.training.model_fields_set
    if "hub_model_id" in given and value(recipe, "hub_model_id") is not None and not value(recipe, "push_to_hub"):
        yield "training.hub_model_id", "nothing is pushed", "say training.push_to_hub: true, or leave it out"
