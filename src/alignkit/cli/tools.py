"""Commands about alignkit itself: recipes, env."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.app import JsonOption, app, complete_recipe

recipes = typer.Typer(rich_markup_mode=None)
app.add_typer(recipes, name="recipes")
NameArgument = Annotated[
    str,
    typer.Argument(help="A shipped recipe: tiny/sft, …", show_default=False, autocompletion=complete_recipe),
]


@recipes.callback(invoke_without_command=True)
def _recipes(context: typer.Context) -> None:
    """List the shipped recipes, show one, or copy one here. The training commands take their names too.

    Example: alignkit recipes

    Example: alignkit recipes copy tiny/sft
    """
    if context.invoked_subcommand is None:
        list_recipes(as_json=False)


@recipes.command("list")
def list_recipes(as_json: JsonOption = False) -> None:
    """List the shipped recipes: name, method, what machine it needs, what it is for.

    Example: alignkit recipes list --json
    """
    from alignkit.recipe import shipped

    found = shipped.shipped_recipes()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2, default=str))
        return
    columns = [(one.name, one.method, one.memory) for one in found]
    widths = [max(len(column[place]) for column in columns) for place in range(3)]
    room = max(20, shutil.get_terminal_size().columns - sum(widths) - 6)
    for one, column in zip(found, columns, strict=True):
        about = one.about if len(one.about) <= room else one.about[: room - 1].rstrip() + "…"
        typer.echo("  ".join([*(text.ljust(width) for text, width in zip(column, widths, strict=True)), about]))


@recipes.command()
def show(name: NameArgument) -> None:
    """Print a shipped recipe.

    Example: alignkit recipes show tiny/sft
    """
    from alignkit.recipe import shipped

    typer.echo(shipped.require(name).read_text(encoding="utf-8"), nl=False)


@recipes.command()
def copy(
    name: NameArgument, folder: Annotated[Path, typer.Argument(help="Where to.", show_default="here")] = Path()
) -> None:
    """Copy a shipped recipe, with the files that it names, to change it.

    Example: alignkit recipes copy qlora_llama
    """
    from alignkit.recipe import shipped

    for path in shipped.copy(name, folder):
        typer.echo(path)


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print what a bug report needs: versions, devices, settings; secrets are left out.

    Example: alignkit env
    """
    from alignkit.environment import describe

    found = describe()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for section, values in found.items():
        typer.echo(f"{section}:")
        for name, value in values.items():
            typer.echo(f"  {name}: {value}")
