"""REINFORCE leave-one-out, on TRL's RLOOTrainer: a completion's baseline is the mean reward of its siblings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from alignkit.errors import Problem
from alignkit.methods import online
from alignkit.methods.base import Method, Stage
from alignkit.recipe import OnlineRecipe


class RlooRecipe(OnlineRecipe):
    """REINFORCE leave-one-out, on TRL's RLOOTrainer: a completion's baseline is the mean reward of its siblings."""

    method: Literal["rloo"]
    training_config: ClassVar[str] = "RLOOConfig"

    def contradictions(self) -> Iterator[Problem]:
        from alignkit.rewards import checks

        yield from super().contradictions()
        yield from checks.problems(self)
        if (self.training.num_generations or 1) < 2:
            message = "a group of one completion has nothing to be compared with"
            yield self.problem("training.num_generations", message, "say at least 2")


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
