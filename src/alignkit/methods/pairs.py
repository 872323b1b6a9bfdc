"""What the methods that learn from preferences share; no method itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from alignkit.errors import Problem, UserError
from alignkit.recipe import EvaluationTask, Recipe, ReferenceRecipe

if TYPE_CHECKING:
    from alignkit.methods.base import Stage
    from alignkit.models import Reference

TASK: Literal["preference"] = "preference"


def answers_alone(recipe: Recipe) -> Iterator[Problem]:
    """Preferences are about answers: there is nothing else to put the loss on."""
    if recipe.data is not None and recipe.data.loss_on == "all":
        message = "all: what is preferred is an answer, and the prompt is the same on both sides"
        yield recipe.problem("data.loss_on", message, "leave it out")


def held_out_pairs(recipe: Recipe) -> list[EvaluationTask]:
    """The recipe's tasks; where it has an eval split and no task on pairs, one on the eval split comes first."""
    tasks = recipe.evaluation
    has_eval = recipe.data is not None and (recipe.data.eval is not None or recipe.data.eval_fraction is not None)
    if not has_eval or any(task.task == TASK for task in tasks):
        return tasks
    names = {task.name for task in tasks}
    name = "held_out_pairs" if "held_out_pairs" not in names else "alignkit_held_out_pairs"
    return [EvaluationTask(name=name, task=TASK), *tasks]


@contextlib.contextmanager
def built_by_trl(stage: Stage) -> Iterator[None]:
    """What TRL's constructors refuse (they check there what goes together) as the user's to mend."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        field = "adapter.target_modules" if "target_modules" in str(error) else "training"
        raise UserError(stage.recipe.problem(field, " ".join(str(error).split()))) from error


def beside_reference(stage: Stage, trainer_class: Any, collator: Any, *, precomputed: bool = False) -> Any:
    """TRL's trainer of this class for the stage, with the recipe's reference settled and checked: at step 0 it is the
    policy. With `precomputed`, the policy gives the reference's log-probabilities before the first step."""
    from alignkit.trainers import guarded
    from alignkit.trainers.seams import project_supervised_positions_only

    assert stage.data is not None
    project_supervised_positions_only()
    reference = build_reference(stage, precomputed=precomputed)
    with built_by_trl(stage):
        trainer: Any = guarded(trainer_class)(
            model=stage.model,
            ref_model=reference.model,
            args=stage.arguments,
            data_collator=collator,
            train_dataset=stage.data.train,
            eval_dataset=stage.data.eval,
            processing_class=stage.tokenizer,
            callbacks=stage.callbacks,
        )
    settle_reference(stage, trainer, reference)
    return trainer


def build_reference(stage: Stage, *, precomputed: bool = False) -> Reference:
    """What the recipe's policy is held near."""
    from alignkit.models import build_reference

    assert stage.tokenizer is not None
    recipe = cast(ReferenceRecipe, stage.recipe)
    return build_reference(
        recipe, stage.model, stage.tokenizer, stage.precision, start=stage.start, precomputed=precomputed
    )


def settle_reference(stage: Stage, trainer: Any, reference: Reference) -> None:
    """After TRL has built its trainer: the reference in place, and the policy equal to it.

    Raises:
        UserError: at step 0 the two differ; it says which of them is not what the recipe names.
    """
    from alignkit.models import restore_adapter_dtype
    from alignkit.models.reference import start_afresh
    from alignkit.trainers.step_zero import require_equal_start

    recipe, precision = cast(ReferenceRecipe, stage.recipe), stage.precision
    reference.settle(trainer.model)
    if recipe.quantization is not None:  # before it is compared: TRL has rounded the adapter
        restore_adapter_dtype(trainer.model, precision.trainable_dtype)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return  # the weights are not whole here

    def afresh() -> Any:
        assert stage.tokenizer is not None
        return start_afresh(recipe, stage.tokenizer, precision, start=stage.start)

    require_equal_start(trainer, reference, recipe.problem, afresh, precision.compute_dtype, precision.notes.append)
