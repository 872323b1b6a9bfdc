"""Kahneman-Tversky optimisation: single answers, each good or bad, on TRL's KTOTrainer. Pairs are taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignkit.errors import Problem, UserError
from alignkit.methods.base import Method, Stage
from alignkit.methods.pairs import answers_alone, beside_reference
from alignkit.recipe import ReferenceRecipe

if TYPE_CHECKING:
    from alignkit.data import Prepared

SHAPES = ("unpaired_preference", "preference")


class KtoRecipe(ReferenceRecipe):
    """Kahneman-Tversky optimisation of a causal language model: full, LoRA or QLoRA."""

    method: Literal["kto"]
    training_config: ClassVar[str] = "KTOConfig"

    def contradictions(self) -> Iterator[Problem]:
        yield from answers_alone(self)
        training = self.training
        if training.loss_type == "kto" and training.train_sampling_strategy != "sequential":
            message = "the KL term is estimated from each batch's neighbours, which are fixed beforehand"
            hint = "leave it out: the rows are shuffled once, by the seed"
            yield self.problem("training.train_sampling_strategy", message, hint)
        if training.loss_type == "kto" and training.per_device_train_batch_size < 2:
            message = "the KL term needs at least two answers at once"
            yield self.problem("training.per_device_train_batch_size", message, "say 2 or more")


def prepare(stage: Stage) -> Prepared:
    """Render, mask, cut and count the answers; shuffled once, since the trainer takes them in order."""
    from alignkit.data import prepare_pairs

    assert stage.tokenizer is not None
    made = prepare_pairs(stage.recipe, stage.tokenizer, "unpaired", shapes=SHAPES, say=stage.say)
    if hasattr(made.train, "__len__"):
        _require_both(stage, made.train["label"])
        made.train = made.train.shuffle(seed=stage.recipe.seed)
    return made


def _require_both(stage: Stage, labels: Sequence[bool]) -> None:
    """KTO moves wanted answers away from unwanted ones; with one kind alone nothing holds the model."""
    wanted = sum(labels)
    if 0 < wanted < len(labels):
        return
    which, other = ("good", "false") if wanted else ("bad", "true")
    message = f"all {len(labels):,} answers are {which} ones: KTO learns from good and bad ones"
    hint = f"add answers whose label is {other}" + (
        "; good answers alone are demonstrations, for sft" if wanted else ""
    )
    raise UserError(stage.recipe.problem("data.train", message, hint))


def build_trainer(stage: Stage) -> Any:
    """TRL's KTOTrainer with its reference settled and checked: at step 0 it is the policy."""
    from alignkit.trainers.preference import UnpairedBatches, UnpairedTrainer

    assert stage.tokenizer is not None
    arguments: Any = stage.arguments
    pad: Any = stage.tokenizer.pad_token_id
    given = ("label", "ref_logps", "ref_KL_logps")
    collator = UnpairedBatches(pad, ("completion",), given, arguments.pad_to_multiple_of)
    return beside_reference(stage, UnpairedTrainer, collator)


METHOD = Method(
    name="kto",
    recipe=KtoRecipe,
    shapes=SHAPES,
    config="trl:KTOConfig",
    prepare=prepare,
    build_trainer=build_trainer,
)
