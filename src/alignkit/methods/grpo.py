"""Group relative policy optimization, on TRL's GRPOTrainer: completions of a prompt are compared with each other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from alignkit.methods import online
from alignkit.methods.base import Method, Stage


class GrpoRecipe(online.GroupRecipe):
    """Group relative policy optimization (GRPO and its kin: Dr. GRPO, DAPO, CISPO, GSPO, …): full, LoRA or QLoRA."""

    method: Literal["grpo"]
    training_config: ClassVar[str] = "GRPOConfig"


def build_trainer(stage: Stage) -> Any:
    from trl import GRPOTrainer

    return online.build_near_reference(stage, GRPOTrainer)


METHOD = Method(
    name="grpo",
    recipe=GrpoRecipe,
    shapes=online.SHAPES,
    config="trl:GRPOConfig",
    prepare=online.prepare,
    build_trainer=build_trainer,
    finish=online.finish,
)
