"""Direct preference optimisation: pairs of a better and a worse answer, on TRL's DPOTrainer with all of its losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignkit.errors import Problem
from alignkit.methods.base import Method, Stage
from alignkit.methods.pairs import answers_alone, beside_reference, held_out_pairs
from alignkit.recipe import EvaluationTask, ReferenceRecipe

if TYPE_CHECKING:
    from alignkit.data import Prepared

SHAPES = ("preference",)


class DpoRecipe(ReferenceRecipe):
    """Direct preference optimisation of a causal language model: full, LoRA or QLoRA."""

    method: Literal["dpo"]
    training_config: ClassVar[str] = "DPOConfig"

    def tasks(self) -> list[EvaluationTask]:
        """The recipe's, and the held-out pairs where it has an eval split."""
        return held_out_pairs(self)

    def contradictions(self) -> Iterator[Problem]:
        yield from answers_alone(self)
        training = self.training
        if training.padding_free:
            message = "TRL has switched it off in DPO since its rewrite"
            yield self.problem("training.padding_free", message, "leave it out: rows of like length share a batch")
        losses, weights = training.loss_type, training.loss_weights
        if weights is not None and len(weights) != len(losses):
            message = f"{len(weights)} for {len(losses)} of training.loss_type ({', '.join(losses)})"
            yield self.problem("training.loss_weights", message, "give one weight for each")
        if training.use_weighting and "sft" in training.loss_type:
            message = "TRL weighs each pair's loss, and the sft loss has none of its own"
            yield self.problem("training.use_weighting", message, "leave one of the two out")
        if training.precompute_ref_log_probs and self.data is not None and self.data.streaming:
            hint = "leave one of the two out"
            yield self.problem("training.precompute_ref_log_probs", "a stream has no known end", hint)


def prepare(stage: Stage) -> Prepared:
    """Render both answers of each pair, mask, cut and count them."""
    from alignkit.data import prepare_pairs

    assert stage.tokenizer is not None
    return prepare_pairs(stage.recipe, stage.tokenizer, "split", shapes=SHAPES, say=stage.say)


def build_trainer(stage: Stage) -> Any:
    """TRL's DPOTrainer with its reference settled and checked: at step 0 it is the policy."""
    from alignkit.trainers.preference import AnswerBatches, PairsTrainer

    assert stage.tokenizer is not None
    arguments: Any = stage.arguments
    answers, given = ("chosen", "rejected"), ("ref_chosen_logps", "ref_rejected_logps")
    pad: Any = stage.tokenizer.pad_token_id
    collator = AnswerBatches(pad, answers, given, arguments.pad_to_multiple_of)
    trainer = beside_reference(stage, PairsTrainer, collator, precomputed=arguments.precompute_ref_log_probs)
    trainer.precompute()
    return trainer


def finish(_stage: Stage, trainer: Any) -> None:
    """Say so where the better answers have become less likely than under the reference."""
    import logging

    from alignkit.trainers.preference import displaced

    if (fall := displaced(trainer.state.log_history)) is not None:
        logging.getLogger("alignkit").warning(
            "likelihood displacement: on the held-out pairs the chosen answers are %.3g nats less likely than they "
            "were at the start; a smaller learning rate, a larger beta, or loss_type: [sigmoid, sft] holds them",
            fall,
        )


METHOD = Method(
    name="dpo",
    recipe=DpoRecipe,
    shapes=SHAPES,
    config="trl:DPOConfig",
    prepare=prepare,
    build_trainer=build_trainer,
    finish=finish,
)
