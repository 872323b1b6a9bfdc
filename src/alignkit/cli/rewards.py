"""Commands about rewards: reward-test."""

from __future__ import annotations

import json

import typer

from alignkit.cli.app import JsonOption, RecipeArgument, SetOption, app


@app.command("reward-test")
def reward_test(recipe: RecipeArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Score right, wrong and adversarial answers with a recipe's rewards, without training.

    Example: alignkit reward-test recipes/tiny/grpo.yaml
    """
    from alignkit import api
    from alignkit.rewards.trial import as_text

    trial = api.reward_test(api.load_recipe(recipe, set_ or ()))
    typer.echo(json.dumps(trial.plain(), indent=2) if as_json else as_text(trial))
