"""What can be known to be wrong before torch is imported: the model's folder, the data's files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignkit import metrics
from alignkit.errors import Problem, UserError
from alignkit.examples import precheck
from alignkit.metrics.answers import extractor
from alignkit.model_folders import check_model, describe_folder, start_of
from alignkit.recipe import JudgeSection, Recipe, judging
from alignkit.runs import Run

# A tracker of `training.report_to` -> the packages of which it needs one.
TRACKERS = {
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


# A field of `training` that switches something on -> the package it needs, and alignkit's extra with it.
ENGINES = {"use_vllm": ("vllm", "vllm"), "use_liger_kernel": ("liger_kernel", "liger")}


def problems(recipe: Recipe, shapes: Sequence[str]) -> list[Problem]:
    """Every problem of the recipe's inputs that their files alone can tell, the model's first."""
    return [*check_model(recipe), *precheck(recipe, shapes), *_tasks(recipe), *_trackers(recipe), *_engines(recipe),
            *_baselines(recipe)]  # fmt: skip


def _trackers(recipe: Recipe) -> Iterator[Problem]:
    """Trackers of `training.report_to` whose package is not installed: upstream raises once the model is built."""
    wanted = recipe.training.resolved().get("report_to") or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        packages = TRACKERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            message = f"{name} is not installed"
            yield recipe.problem("training.report_to", message, f"pip install {packages[0]}, or leave it out")


def _engines(recipe: Recipe) -> Iterator[Problem]:
    """What `training` switches on from packages that are not installed."""
    values = recipe.training.resolved()
    for name, (package, extra) in ENGINES.items():
        if values.get(name) and importlib.util.find_spec(package) is None:
            hint = f"pip install 'alignkit[{extra}]', or leave it out"
            yield recipe.problem(f"training.{name}", f"{package} is not installed", hint)


def _baselines(recipe: Recipe) -> Iterator[Problem]:
    """A classifier's baseline needs a trained head; where the start is on the Hub, the evaluation finds out."""
    start = start_of(recipe)
    if recipe.model.init is None and (start is None or not Path(start).is_dir()):
        return
    if recipe.model.init is None and describe_folder(str(start)).head == recipe.head:
        return
    for index, task in enumerate(recipe.tasks()):
        if task.task == "classification" and task.baseline:
            hint = "leave it out: the majority class and TF-IDF stand beside the classifier"
            message = "what training starts from has no head for labels, so its answers would be chance"
            yield recipe.problem(f"evaluation.{index}.baseline", message, hint)


def _tasks(recipe: Recipe) -> Iterator[Problem]:
    """Metrics and ways to find an answer that nobody knows: better said now than when training has ended."""
    for index, task in enumerate(recipe.evaluation):
        at = f"evaluation.{index}"
        if task.task == "lm_eval" and importlib.util.find_spec("lm_eval") is None:
            hint = "pip install 'alignkit[lm-eval]'"
            yield recipe.problem(f"{at}.task", "lm-evaluation-harness is not installed", hint)
        if task.use_vllm and importlib.util.find_spec("vllm") is None:
            yield recipe.problem(
                f"{at}.use_vllm", "vllm is not installed", "pip install 'alignkit[vllm]', or leave it out"
            )
        if task.judge is not None:
            for name, message, why in _judge(recipe, task.judge, task.name):
                yield recipe.problem(f"{at}.judge.{name}", message, why)
        yield from _refusals(recipe, f"{at}.metrics", metrics.expand, task.metrics)
        if task.answer is not None:
            yield from _refusals(recipe, f"{at}.answer", extractor, task.answer)


def _judge(recipe: Recipe, judge: JudgeSection, name: str) -> Iterator[tuple[str, str, str | None]]:
    """A judge that can't be asked, or has nothing to compare with."""
    yield from judging.key_problems(judge)
    if judge.prompt_path is not None:
        yield from judging.prompt_problems(recipe.base_dir / Path(judge.prompt_path).expanduser())
    if judge.against_run is not None:
        samples = Run(recipe.base_dir / Path(judge.against_run).expanduser()).evaluation_dir / "samples.jsonl"
        if not samples.is_file():
            hint = f"evaluate that run first, with a task named {name}; paths are relative to the recipe's file"
            yield "against_run", f"there is no file {samples}", hint


def _refusals(recipe: Recipe, field: str, ask: Callable[[Any], Any], value: Any) -> Iterator[Problem]:
    try:
        ask(value)
    except UserError as error:
        for problem in error.problems:
            yield recipe.problem(field, problem.message, problem.hint)


def require_tasks(recipe: Recipe) -> None:
    """Raise one UserError with what is wrong with the recipe's tasks; for an evaluation without training."""
    if found := list(_tasks(recipe)):
        raise UserError(found)


def require(recipe: Recipe, shapes: Sequence[str]) -> None:
    """Raise one UserError with all of them."""
    if found := problems(recipe, shapes):
        raise UserError(found)
