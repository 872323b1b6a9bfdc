"""What does not go together in a recipe, whatever its method. Each rule names the fields it reads.

A rule is left out while one of its fields is itself wrong, so that one mistake is reported once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.errors import Problem
from alignkit.recipe import generation, judging
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.sections import EvaluationTask, JudgeSection, Source
from alignkit.recipe.source import Document, KeyPath, as_path

Finding = tuple[str, str, str | None]  # field, message, hint


@dataclass(frozen=True)
class Rule:
    reads: tuple[KeyPath, ...]
    check: Callable[[Recipe], Iterator[Finding]]


RULES: list[Rule] = []


def rule(*reads: str) -> Callable[[Callable[[Recipe], Iterator[Finding]]], Callable[[Recipe], Iterator[Finding]]]:
    """Register a rule that reads these fields."""

    def register(check: Callable[[Recipe], Iterator[Finding]]) -> Callable[[Recipe], Iterator[Finding]]:
        RULES.append(Rule(tuple(as_path(name) for name in reads), check))
        return check

    return register


def check(recipe: Recipe, document: Document, wrong: Sequence[KeyPath] = ()) -> list[Problem]:
    """The problems that the rules find, without those rules that read one of the `wrong` fields."""
    found = []
    for one in RULES:
        if any(_overlap(read, bad) for read in one.reads for bad in wrong):
            continue
        found += [document.problem(as_path(field), message, hint) for field, message, hint in one.check(recipe)]
    return found


def _overlap(read: KeyPath, bad: KeyPath) -> bool:
    """Whether one of the two paths holds the other."""
    shared = min(len(read), len(bad))
    return read[:shared] == bad[:shared]


def value(recipe: Recipe, name: str) -> Any:
    """A training field's value; None where the method's config has none."""
    return getattr(recipe.training, name, None)


def has_eval(recipe: Recipe) -> bool:
    return recipe.data is not None and (recipe.data.eval is not None or recipe.data.eval_fraction is not None)


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


@rule("evaluation")
def harness_and_its_section(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        at = f"evaluation.{index}"
        if task.task == "lm_eval" and task.lm_eval is None:
            yield f"{at}.lm_eval", "nothing says which tasks of the harness to run", "say lm_eval: {tasks: [hellaswag]}"
        if task.task != "lm_eval" and task.lm_eval is not None:
            yield f"{at}.lm_eval", f"does nothing for task: {task.task}", "say task: lm_eval, or leave it out"
        if task.task == "lm_eval":
            for name in ("data", "metrics", "answer", "slice_by"):
                if getattr(task, name):
                    yield f"{at}.{name}", "the harness's tasks bring their own", "leave it out"


@rule("evaluation", "adapter", "quantization", "model")
def vllm_can_do_it(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        at = f"evaluation.{index}"
        if not task.use_vllm:
            if task.vllm:
                yield f"{at}.vllm", "does nothing without use_vllm: true", "add it, or leave it out"
            continue
        if task.task not in ("generation", "judge"):
            yield f"{at}.use_vllm", f"nothing is generated in task: {task.task}", "leave it out"
        for name, message, hint in generation.not_in_vllm(task.generation.arguments()):
            yield f"{at}.generation.{name}", message, hint
        if recipe.quantization is not None:
            message = "vLLM would generate from the base in full precision, which is not the model that was trained"
            yield f"{at}.use_vllm", message, "leave it out"
        if recipe.model.init is not None and task.baseline is not False:
            hint = "say baseline: false, or leave use_vllm out"
            yield (
                f"{at}.use_vllm",
                "vLLM reads a model from its folder, and the baseline (random weights) has none",
                hint,
            )
        yield from _adapter_in_vllm(f"{at}.use_vllm", recipe)


def _adapter_in_vllm(at: str, recipe: Recipe) -> Iterator[Finding]:
    adapter = recipe.adapter
    if adapter is None:
        return
    fields = adapter.arguments()
    kept = next((name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if fields.get(name)), None)
    if adapter.peft_type != "LORA" or kept:
        what = f"{adapter.peft_type} with {kept}" if kept else adapter.peft_type
        yield at, f"vLLM loads plain LoRA adapters, and this one is {what}", "leave it out"


@rule("evaluation")
def judge_and_its_section(recipe: Recipe) -> Iterator[Finding]:
    for index, task in enumerate(recipe.evaluation):
        at = f"evaluation.{index}"
        if task.task != "judge":
            if task.judge is not None:
                yield f"{at}.judge", f"does nothing for task: {task.task}", "say task: judge, or leave it out"
            continue
        for name in ("metrics", "answer"):
            if getattr(task, name):
                yield f"{at}.{name}", "a judge's verdicts give win_rate and length_controlled_win_rate", "leave it out"
        if (task.generation.arguments().get("num_return_sequences") or 1) > 1:
            yield f"{at}.generation.num_return_sequences", "one answer to each prompt is compared", "leave it out"
        if task.judge is None:
            yield f"{at}.judge", "nothing says who judges", "say judge: {model: NAME, base_url: http://…/v1}"
        else:
            yield from _judged_against(f"{at}.judge", task, task.judge)


def _judged_against(at: str, task: EvaluationTask, judge: JudgeSection) -> Iterator[Finding]:
    for name, message, hint in judging.address_problems(judge):
        yield f"{at}.{name}", message, hint
    if judge.against is not None and judge.against_run is not None:
        yield (
            f"{at}.against_run",
            "the answers are held against one thing, and `against` names it",
            "keep one of the two",
        )
    elif judge.against in (None, "baseline") and judge.against_run is None and task.baseline is False:
        hint = "leave `baseline: false` out, or say against: reference, or against_run"
        yield f"{at}.against", "there is no baseline to hold the answers against", hint


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
