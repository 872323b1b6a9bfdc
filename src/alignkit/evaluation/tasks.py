"""Tasks by name, and their run: each task's scores are written as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import Problem, UserError
from alignkit.evaluation import classification, generation, harness, judged, perplexity, preference
from alignkit.evaluation.scores import Score, write_scores
from alignkit.evaluation.split import EvalSplit
from alignkit.evaluation.stage import Say, Stage
from alignkit.examples import Example

if TYPE_CHECKING:
    from alignkit.models import Precision
    from alignkit.recipe import EvaluationTask

TaskFunction = Callable[["EvaluationTask", Stage], list[Score]]

TASKS: dict[str, TaskFunction] = {
    "generation": generation.evaluate,
    "perplexity": perplexity.evaluate,
    "classification": classification.evaluate,
    "lm_eval": harness.evaluate,
    "preference": preference.evaluate,
    "judge": judged.evaluate,
}
"""A task is a function of one file; it takes its section of the recipe and a Stage, and returns its scores."""


def evaluate_tasks(
    tasks: Sequence[EvaluationTask],
    model: Any,
    tokenizer: Any,
    *,
    base_dir: Path,
    model_label: str,
    out_dir: Path,
    eval_examples: Sequence[Example] | EvalSplit | None = None,
    seed: int = 42,
    say: Say = print,
    loss_on: str | None = None,
    precision: Precision | None = None,
    problem: Callable[[str, str, str | None], Problem] | None = None,
    fields: Sequence[str] | None = None,
    train_examples: EvalSplit | None = None,
    place: str | None = None,
) -> list[Score]:
    """Run `tasks` on one model and merge their scores into out_dir/scores.json.

    Args:
        model_label: tuned, baseline, or a name.
        eval_examples: the eval split, for tasks without data of their own; or a function from shapes to it.
        problem: makes a recipe's problem of (field, message, hint).
        fields: where in the recipe each task stands; `evaluation.0`, … by default.
        place: the folder or Hub id that holds the model.
        train_examples: what the model was trained on, for simple models fitted on the same; from shapes to it.

    Raises:
        UserError: a task's settings or data can't be used.
        RunFailed: a score is not a finite number, or memory ran out on a single item.
    """
    split = eval_examples if eval_examples is None or callable(eval_examples) else lambda _: list(eval_examples)
    stage = Stage(
        model, tokenizer, model_label, out_dir, base_dir, seed, say, loss_on, split, precision, place, train_examples
    )
    scores: list[Score] = []
    for field, task in zip(fields or [f"evaluation.{number}" for number in range(len(tasks))], tasks, strict=True):
        try:
            if task.task not in TASKS:
                known = ", ".join(TASKS)
                raise UserError(Problem(f"{task.task} is not available here; there are {known}", field="task"))
            found = TASKS[task.task](task, stage)
        except UserError as error:
            raise _placed(error, field, problem) from error
        write_scores(out_dir, found)
        scores += found
    return scores


def _placed(error: UserError, field: str, problem: Callable[[str, str, str | None], Problem] | None) -> UserError:
    """The error at its field of the recipe; problems that name a file already stay as they are."""
    placed = []
    for one in error.problems:
        if one.file is None:
            path = f"{field}.{one.field}" if one.field else field
            one = problem(path, one.message, one.hint) if problem else Problem(one.message, field=path, hint=one.hint)
        placed.append(one)
    return UserError(placed)
