"""Proximal policy optimization with a critic, on alignkit's own trainer: RLHF, verifiable rewards, dense rewards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from alignkit.errors import Problem, UserError
from alignkit.methods import online
from alignkit.methods.base import Method, Stage
from alignkit.recipe import CriticSection, OnlineRecipe, local_path

if TYPE_CHECKING:
    from alignkit.rewards.mixture import Mixture


class PpoRecipe(OnlineRecipe):
    """Proximal policy optimization with a critic: full, LoRA or QLoRA."""

    method: Literal["ppo"]
    training_config: ClassVar[str] = "PPOConfig"

    critic: CriticSection = Field(default=CriticSection())
    """What estimates the rewards to come."""

    @property
    def critic_kind(self) -> str:
        """With an adapter the critic shares the base model, unless the recipe says otherwise."""
        return self.critic.kind or ("trunk" if self.adapter is not None else "model")

    def contradictions(self) -> Iterator[Problem]:
        from alignkit.rewards import checks

        yield from super().contradictions()
        yield from checks.problems(self)
        training = self.training
        if training.kl_in == "loss" and training.kl_estimator == "k1":
            hint = "say k2 or k3"
            yield self.problem("training.kl_estimator", "in the loss, the gradient of k1 is zero on average", hint)
        if training.beta == 0 and (self.reference is not None or training.kl_target is not None):
            field = "reference" if self.reference is not None else "training.kl_target"
            yield self.problem("training.beta", f"is 0, so that {field} has no use", "give it a value above 0")
        yield from self._critic()

    def _critic(self) -> Iterator[Problem]:
        critic, kind = self.critic, self.critic_kind
        for field, owner in (("layers", "trunk"), ("width", "trunk"), ("detached", "head")):
            default = type(critic).model_fields[field].default  # a run's own recipe.yaml gives every field
            if kind != owner and getattr(critic, field) != default:
                yield self.problem(f"critic.{field}", f"is a {owner}'s, and the critic is a {kind}", "leave it out")
        if critic.init in ("policy", "reward") and kind != "model":
            message = f"a {kind} starts anew: only a model of its own starts from another"
            yield self.problem("critic.init", message, "leave it out, or name the folder of a saved critic")
        models = [reward for reward in self.rewards if reward.kind in ("model", "from_recipe")]
        if critic.init == "reward" and not models:
            yield self.problem("critic.init", "no reward is a model", "say policy, or leave it out")
        if kind == "none" and self.training.bootstrap_truncated:
            yield self.problem("training.bootstrap_truncated", "needs a critic", "leave one of the two out")


def build_trainer(stage: Stage) -> Any:
    from alignkit.methods.pairs import build_reference
    from alignkit.trainers.ppo import PPOTrainer

    recipe, arguments = cast(PpoRecipe, stage.recipe), cast(Any, stage.arguments)
    critic = recipe.critic
    arguments.critic_kind, arguments.critic_layers = recipe.critic_kind, critic.layers
    arguments.critic_width, arguments.critic_detached = critic.width, critic.detached
    reference = build_reference(stage) if arguments.beta else None

    def extra(rewards: Mixture) -> dict[str, Any]:
        return {
            "critic": _critic(stage, rewards),
            "ref_model": None if reference is None else reference.model,
        }

    trainer = online.build_trainer(stage, PPOTrainer, token_level=True, extra=extra)
    if reference is not None:
        reference.settle(trainer.model)
    return trainer


def _critic(stage: Stage, rewards: Mixture) -> Any:
    """What PPOTrainer's `critic` is given: a backbone, a folder or Hub id, or None for its own choice."""
    from alignkit.rewards.model import ModelReward

    recipe = cast(PpoRecipe, stage.recipe)
    init = recipe.critic.init
    if init not in (None, "policy", "reward"):
        place = local_path(str(init), recipe.base_dir)
        return str(place or init)
    if recipe.critic_kind != "model" or init == "policy":
        return None
    assert stage.tokenizer is not None
    for reward in rewards.rewards:
        scorer = reward.scorer
        if isinstance(scorer, ModelReward):
            if scorer.tokenizer.get_vocab() == stage.tokenizer.get_vocab():
                return scorer.backbone()
            if init == "reward":
                message = f"the reward model {reward.name} does not read the policy's tokens"
                raise UserError(recipe.problem("critic.init", message, "say policy"))
    return None


METHOD = Method(
    name="ppo",
    recipe=PpoRecipe,
    shapes=online.SHAPES,
    config="alignkit.trainers.ppo:PPOConfig",
    prepare=online.prepare,
    build_trainer=build_trainer,
    finish=online.finish,
)
