"""What the methods share that learn from rewards for their own completions. No method itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from alignkit.errors import Problem, UserError
from alignkit.methods.base import Stage
from alignkit.recipe import OnlineRecipe

if TYPE_CHECKING:
    from alignkit.data import Prepared
    from alignkit.rewards.mixture import Mixture

SHAPES = ("prompt_only",)
SAMPLES = "samples.jsonl"


class GroupRecipe(OnlineRecipe):
    """A recipe of a method that compares the completions of a prompt with each other."""

    def contradictions(self) -> Iterator[Problem]:
        from alignkit.rewards import checks

        yield from super().contradictions()
        yield from checks.problems(self)
        if (self.training.num_generations or 1) < 2:
            message = "a group of one completion has nothing to be compared with"
            yield self.problem("training.num_generations", message, "say at least 2")


def prepare(stage: Stage) -> Prepared:
    """The prompts, tokenized, with the columns that rewards read."""
    from alignkit.data import prepare_prompts

    return prepare_prompts(stage.recipe, stage.tokenizer, say=stage.say)


def load_rewards(stage: Stage, *, token_level: bool = False) -> Mixture:
    """The recipe's rewards, ready to be asked.

    Args:
        token_level: whether the method can use a reward for each token.
    """
    from alignkit.rewards.build import build_rewards

    recipe, arguments = stage.recipe, cast(Any, stage.arguments)
    assert isinstance(recipe, OnlineRecipe)
    stage.say("loading the rewards")
    rewards = build_rewards(
        recipe,
        stage.precision,
        token_level=token_level,
        log=stage.run.log_path,
        say=stage.say,
        results=stage.results,
    )
    arguments.reward_weights = rewards.weights
    return rewards


def build_trainer(
    stage: Stage, trainer_class: Any, *, extra: Callable[[Mixture], dict[str, Any]] | None = None, **options: Any
) -> Any:
    """`trainer_class` with `trainers.online` mixed in, and the recipe's rewards loaded.

    Args:
        extra: further arguments for the trainer, made once the rewards are loaded.
        options: of `load_rewards`.
    """
    from alignkit.trainers.online import online

    recipe = stage.recipe
    assert isinstance(recipe, OnlineRecipe) and stage.data is not None
    _require_room(stage)
    rewards = load_rewards(stage, **options)
    try:
        return online(trainer_class)(
            model=stage.model,
            args=stage.arguments,
            train_dataset=stage.data.train,
            eval_dataset=stage.data.eval,
            processing_class=stage.tokenizer,
            callbacks=stage.callbacks,
            rewards=rewards,
            answer=recipe.training.answer,
            difficulty_sampling=recipe.training.difficulty_sampling,
            samples_path=stage.run.path / SAMPLES,
            **(extra(rewards) if extra is not None else {}),
        )
    except ValueError as error:  # TRL checks here what goes together
        rewards.close()
        raise UserError(recipe.problem("training", str(error))) from error
    except BaseException:
        rewards.close()
        raise


def build_near_reference(stage: Stage, trainer_class: Any) -> Any:
    """`build_trainer` for TRL's own trainers, with the recipe's reference where there is a KL penalty."""
    from alignkit.methods.pairs import build_reference

    reference = build_reference(stage) if cast(Any, stage.arguments).beta else None
    return build_trainer(stage, trainer_class, extra=lambda _rewards: {"reference": reference})


def finish(_stage: Stage, trainer: Any) -> None:
    """Nothing is rewarded any more once the result is saved."""
    trainer.rewards.close()


def _require_room(stage: Stage) -> None:
    """The longest prompt and its completion must fit the model's context."""
    assert stage.data is not None and stage.model is not None
    text = stage.model.config.get_text_config(decoder=True)
    context = getattr(text, "max_position_embeddings", None)
    arguments: Any = stage.arguments
    answer, longest = arguments.max_completion_length or 0, max(stage.data.train["length"])
    if context is None or longest + answer <= context:
        return
    message = (
        f"the longest prompt has {longest} tokens and a completion up to {answer}, and the model's context is {context}"
    )
    hint = (
        f"leave longer prompts out with training.max_prompt_length: {context - answer}"
        if answer < context
        else f"lower it; prompts have up to {longest} tokens"
    )
    field = "training.max_prompt_length" if answer < context else "training.max_completion_length"
    raise UserError(stage.recipe.problem(field, message, hint))
