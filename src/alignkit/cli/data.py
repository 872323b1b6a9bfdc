"""Commands that look at data: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alignkit.cli.app import JsonOption, RecipeArgument, SetOption, app


@app.command()
def inspect(
    recipe: RecipeArgument,
    examples: Annotated[int, typer.Option("-n", "--examples", help="How many examples to show.", min=0)] = 3,
    split: Annotated[Literal["train", "eval"], typer.Option(help="Of which split.")] = "train",
    html: Annotated[Path | None, typer.Option(help="Also write a page to share.", metavar="FILE")] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a recipe's data as the model will see it: every token, what is trained on, counts.

    Example: alignkit inspect recipes/tiny/sft.yaml -n 1
    """
    from alignkit import api, inspection

    inspection.command(api.load_recipe(recipe, set_ or ()), examples, split, as_json, html)
