"""From a recipe's `rewards:` to what can be asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.recipe import RewardSection, local_path
from alignkit.recipe.rewards import OnlineRecipe, labels
from alignkit.rewards.call import Answer, Call, text_of
from alignkit.rewards.functions.registry import BUILT_IN, Bound
from alignkit.rewards.isolation import Isolated, Refused
from alignkit.rewards.mixture import Mixture, Reward, Scorer

if TYPE_CHECKING:
    from alignkit.models import Precision

TIMEOUTS = {"name": 10.0, "file": 60.0, "judge": 300.0}
"""Seconds, where a recipe says none: for a sample (name) or a call."""


def build_rewards(
    recipe: OnlineRecipe,
    precision: Precision | None = None,
    *,
    token_level: bool = False,
    log: Path | None = None,
    say: Callable[[str], None] | None = None,
    results: Mapping[str, str] | None = None,
) -> Mixture:
    """Load every reward of the recipe; those that run apart are loaded while the others are.

    Args:
        token_level: whether the method can use a reward for each token.
        log: the file to which a user's functions print.
        results: where the results of the recipes lie that `rewards[].from_recipe` names.

    Raises:
        UserError: a file, function or model that can't be loaded.
    """
    scorers: list[Scorer] = []
    for index, section in enumerate(recipe.rewards):
        if section.name == "code_tests" and say is not None:
            say("rewards: code that the model writes is run, with limits; that is no security boundary")
        scorers.append(_scorer(recipe, index, section, precision, log, results or {}))
    names = labels(recipe.rewards)
    rewards = []
    for section, name, scorer in zip(recipe.rewards, names, scorers, strict=True):
        where = f" ({section.file})" if section.file is not None else ""
        rewards.append(Reward(name, section.weight, scorer, section.max_failed, where))
    mixture = Mixture(rewards, token_level)
    for index, (section, scorer) in enumerate(zip(recipe.rewards, scorers, strict=True)):
        try:
            if isinstance(scorer, Isolated):
                scorer.require()
        except Refused as error:
            mixture.close()
            raise UserError(recipe.problem(f"rewards.{index}.{section.kind}", f"can't be loaded: {error}")) from error
    return mixture


def _scorer(
    recipe: OnlineRecipe,
    index: int,
    section: RewardSection,
    precision: Precision | None,
    log: Path | None,
    results: Mapping[str, str],
) -> Scorer:
    if section.kind in ("model", "from_recipe"):
        return _model(recipe, index, section, precision, results)
    if section.kind == "name" and not BUILT_IN[str(section.name)].slow:
        return _here(Bound(str(section.name), section.options, section.column))
    spec: dict[str, Any] = {"kind": section.kind, "options": section.options, "column": section.column}
    spec[section.kind] = getattr(section, section.kind)
    if section.kind == "file":
        spec["file"] = str(local_path(str(section.file), recipe.base_dir))
    return Isolated(spec, section.timeout or TIMEOUTS[section.kind], section.max_failed, log)


def _here(bound: Bound) -> Callable[[Call], Answer]:
    """A built-in function that can't hang: in this process."""

    def score(call: Call) -> Answer:
        return Answer(
            [
                bound(text_of(call.completions[place]), len(call.completion_ids[place]), call.sample(place))
                for place in range(len(call))
            ]
        )

    return score


def _model(
    recipe: OnlineRecipe, index: int, section: RewardSection, precision: Precision | None, results: Mapping[str, str]
) -> Scorer:
    from alignkit.rewards.model import ModelReward

    field = f"rewards.{index}.{section.kind}"
    if section.kind == "from_recipe" and section.from_recipe not in results:
        hint = f"train it first: alignkit reward {section.from_recipe}"
        raise UserError(recipe.problem(field, "its reward model is not trained here", hint))
    name = results[str(section.from_recipe)] if section.kind == "from_recipe" else str(section.model)
    place = local_path(name, recipe.base_dir)
    logging.getLogger("alignkit").info("loading the reward model %s", name)
    try:
        return ModelReward(str(place or name), precision, **section.options)
    except UserError as error:
        raise UserError([recipe.problem(field, one.message, one.hint) for one in error.problems]) from error
