"""Supervised fine-tuning: chats, prompts with completions, or plain text, on TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignkit.errors import Problem, UserError
from alignkit.methods.base import Method, Stage
from alignkit.recipe import Recipe

if TYPE_CHECKING:
    from alignkit.data import Prepared

EVALUATED = ("loss", "entropy", "mean_token_accuracy")  # what TRL's trainer gives of an eval split
SHAPES = ("prompt_completion", "language_modeling")


class SftRecipe(Recipe):
    """Supervised fine-tuning of a causal language model: full, LoRA or QLoRA."""

    method: Literal["sft"]
    training_config: ClassVar[str] = "SFTConfig"
    can_pack: ClassVar[bool] = True

    def contradictions(self) -> Iterator[Problem]:
        metric = self.training.metric_for_best_model
        if metric is not None and metric.removeprefix("eval_") not in EVALUATED:
            hint = f"it is one of {', '.join(EVALUATED)}"
            yield self.problem("training.metric_for_best_model", f"an evaluation here gives no {metric}", hint)


def prepare(stage: Stage) -> Prepared:
    """Render, mask, count and (where asked) pack the examples."""
    from alignkit.data import prepare_language_modeling

    return prepare_language_modeling(stage.recipe, stage.tokenizer, shapes=SHAPES, say=stage.say)


def build_trainer(stage: Stage) -> Any:
    """TRL's SFTTrainer over rows that are already tokenized and masked: TRL's own preparation is skipped."""
    from trl import SFTTrainer

    from alignkit.data import PackedRows, require_exact_packing
    from alignkit.trainers import guarded
    from alignkit.trainers.seams import project_supervised_positions_only

    assert stage.data is not None and stage.model is not None and stage.tokenizer is not None
    arguments: Any = stage.arguments
    arguments.dataset_kwargs = {"skip_prepare_dataset": True}
    if arguments.packing:
        require_exact_packing(stage.recipe, stage.model)
    project_supervised_positions_only()
    try:
        trainer = guarded(SFTTrainer)(
            model=stage.model,
            args=stage.arguments,
            train_dataset=stage.data.train,
            eval_dataset=stage.data.eval,
            processing_class=stage.tokenizer,
            callbacks=stage.callbacks,
        )
    except ValueError as error:  # TRL checks here what goes together
        field = "adapter.target_modules" if "target_modules" in str(error) else "training"
        raise UserError(stage.recipe.problem(field, str(error))) from error
    if trainer.padding_free and "flash" not in (stage.model.config._attn_implementation or ""):
        # TRL lays a batch's rows end to end, for kernels that take boundaries; others would pay for a square mask.
        trainer.data_collator.collator = PackedRows(stage.tokenizer.pad_token_id, arguments.pad_to_multiple_of)
    trainer.blank_row = _blank(stage.tokenizer.pad_token_id, packed=bool(arguments.packing))
    return trainer


def _blank(pad_token_id: int, packed: bool) -> dict[str, Any]:
    """A row of two tokens of which none is learned."""
    from alignkit.trainers.ranks import BLANK, EXAMPLE_IDS

    row = {"input_ids": [pad_token_id] * 2, "labels": [-100] * 2, "length": 2, EXAMPLE_IDS: BLANK}
    return {**row, "seq_lengths": [2]} if packed else row


METHOD = Method(
    name="sft",
    recipe=SftRecipe,
    shapes=SHAPES,
    config="trl:SFTConfig",
    prepare=prepare,
    build_trainer=build_trainer,
)
