"""Reward modelling: one number for a text, learned from pairs of answers, on TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignkit.errors import Problem
from alignkit.methods.base import Method, Stage
from alignkit.methods.pairs import TASK, answers_alone, built_by_trl, held_out_pairs
from alignkit.recipe import EvaluationTask, Head, Recipe

if TYPE_CHECKING:
    from alignkit.data import Prepared

SHAPES = ("preference",)


class RewardRecipe(Recipe):
    """A reward model (Bradley-Terry) on a causal language model or an encoder: full, LoRA or QLoRA."""

    method: Literal["reward"]
    training_config: ClassVar[str] = "RewardConfig"

    @property
    def head(self) -> Head:
        return "sequence_classification"

    def tasks(self) -> list[EvaluationTask]:
        """The recipe's, and the held-out pairs where it has an eval split.

        What training starts from gives every text the same reward: it is measured only where a task asks for it.
        """
        return [
            task.model_copy(update={"baseline": False}) if task.task == TASK and task.baseline is None else task
            for task in held_out_pairs(self)
        ]

    def contradictions(self) -> Iterator[Problem]:
        yield from answers_alone(self)
        for index, task in enumerate(self.evaluation):
            if task.task != TASK:
                message = f"a reward model has no answers or likelihoods of its own to measure with {task.task}"
                yield self.problem(f"evaluation.{index}.task", message, f"say {TASK}")


def prepare(stage: Stage) -> Prepared:
    """Render both sides of each pair whole, cut and count them."""
    from alignkit.data import prepare_pairs

    assert stage.tokenizer is not None
    return prepare_pairs(stage.recipe, stage.tokenizer, "whole", shapes=SHAPES, say=stage.say)


def build_model(stage: Stage) -> Any:
    """The start with one output; a new head begins at zero, so that no text is preferred before the first step."""
    from alignkit.models.reward_head import build_reward_model

    assert stage.tokenizer is not None
    return build_reward_model(stage.recipe, stage.tokenizer, stage.precision, start=stage.start)


def build_trainer(stage: Stage) -> Any:
    """TRL's RewardTrainer over rows that are already tokens: its own preparation is skipped."""
    from alignkit.trainers import guarded
    from alignkit.trainers.preference import WholePairsTrainer

    assert stage.data is not None
    with built_by_trl(stage):
        return guarded(WholePairsTrainer)(
            model=stage.model,
            args=stage.arguments,
            train_dataset=stage.data.train,
            eval_dataset=stage.data.eval,
            processing_class=stage.tokenizer,
            callbacks=stage.callbacks,
        )


def finish(stage: Stage, trainer: Any) -> None:
    """Load the saved result anew: it must give held-out pairs the rewards that the trained model gives them."""
    from alignkit.evaluation.rewards import check_saved

    assert stage.data is not None and stage.tokenizer is not None
    rows = stage.data.train if stage.data.eval is None else stage.data.eval
    pad: Any = stage.tokenizer.pad_token_id
    check_saved(stage.recipe, trainer.model, stage.run.model_dir, rows, stage.precision, pad)


METHOD = Method(
    name="reward",
    recipe=RewardRecipe,
    shapes=SHAPES,
    config="trl:RewardConfig",
    prepare=prepare,
    build_trainer=build_trainer,
    answers="rewards",
    build_model=build_model,
    finish=finish,
)
