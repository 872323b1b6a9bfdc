"""What does not go together in an evaluation task: the harness, vLLM and judges, each with its own section."""

from __future__ import annotations

from collections.abc import Iterator

from alignkit.recipe import generation, judging
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.rule import Finding, rule
from alignkit.recipe.sections import EvaluationTask, JudgeSection


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
