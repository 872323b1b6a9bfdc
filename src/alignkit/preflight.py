"""What can be known to be wrong before torch is imported: the model's folder, the data's files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignkit import metrics
from alignkit.errors import Problem, UserError
from alignkit.examples import precheck
from alignkit.metrics.answers import extractor
from alignkit.model_folders import check_model
from alignkit.recipe import Recipe

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


def problems(recipe: Recipe, shapes: Sequence[str]) -> list[Problem]:
    """Every problem of the recipe's inputs that their files alone can tell, the model's first."""
    return [*check_model(recipe), *precheck(recipe, shapes), *_tasks(recipe), *_trackers(recipe)]


def _trackers(recipe: Recipe) -> Iterator[Problem]:
    """Trackers of `training.report_to` whose package is not installed: upstream raises once the model is built."""
    wanted = recipe.training.resolved().get("report_to") or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        packages = TRACKERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            message = f"{name} is not installed"
            yield recipe.problem("training.report_to", message, f"pip install {packages[0]}, or leave it out")


def _tasks(recipe: Recipe) -> Iterator[Problem]:
    """Metrics and ways to find an answer that nobody knows: better said now than when training has ended."""
    for index, task in enumerate(recipe.evaluation):
        at = f"evaluation.{index}"
        if task.task == "lm_eval" and importlib.util.find_spec("lm_eval") is None:
            hint = "pip install 'alignkit[lm-eval]'"
            yield recipe.problem(f"{at}.task", "lm-evaluation-harness is not installed", hint)
        yield from _refusals(recipe, f"{at}.metrics", metrics.expand, task.metrics)
        if task.answer is not None:
            yield from _refusals(recipe, f"{at}.answer", extractor, task.answer)


def _refusals(recipe: Recipe, field: str, ask: Callable[[Any], Any], value: Any) -> Iterator[Problem]:
    try:
        ask(value)
    except UserError as error:
        for problem in error.problems:
            yield recipe.problem(field, problem.message, problem.hint)


def require(recipe: Recipe, shapes: Sequence[str]) -> None:
    """Raise one UserError with all of them."""
    if found := problems(recipe, shapes):
        raise UserError(found)
