"""Group relative policy optimization, on TRL's GRPOTrainer: completions of a prompt are compared with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from alignkit.errors import Problem
from alignkit.methods import online
from alignkit.methods.base import Method, Stage
from alignkit.recipe import OnlineRecipe


class GrpoRecipe(OnlineRecipe):
    """Group relative policy optimization (GRPO and its kin: Dr. GRPO, DAPO, CISPO, GSPO, …): full, LoRA or QLoRA."""

    method: Literal["grpo"]
    training_config: ClassVar[str] = "GRPOConfig"

    def contradictions(self) -> Iterator[Problem]:
        from alignkit.rewards import checks

        yield from super().contradictions()
        yield from checks.problems(self)
        if (self.training.num_generations or 1) < 2:
            message = "a group of one completion has nothing to be compared with"
            yield self.problem("training.num_generations", message, "say at least 2")


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
