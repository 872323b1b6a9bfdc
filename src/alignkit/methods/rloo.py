"""REINFORCE leave-one-out, on TRL's RLOOTrainer: a completion's baseline is the mean reward of its siblings."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from alignkit.methods import online
from alignkit.methods.base import Method, Stage


class RlooRecipe(online.GroupRecipe):
    """REINFORCE leave-one-out, on TRL's RLOOTrainer: a completion's baseline is the mean reward of its siblings."""

    method: Literal["rloo"]
    training_config: ClassVar[str] = "RLOOConfig"


def build_trainer(stage: Stage) -> Any:
    from trl import RLOOTrainer

    return online.build_near_reference(stage, RLOOTrainer)


METHOD = Method(
    name="rloo",
    recipe=RlooRecipe,
    shapes=online.SHAPES,
    config="trl:RLOOConfig",
    prepare=online.prepare,
    build_trainer=build_trainer,
    finish=online.finish,
)
