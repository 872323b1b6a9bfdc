"""The application that the commands join, and the arguments that several of them take."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="alignkit",
    help="Fine-tune, align and evaluate language models: one recipe, one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of shipped recipes for the shell; none where a file here begins so, which the shell then completes."""
    from alignkit.recipe import shipped

    if incomplete and any(Path().glob(f"{glob.escape(incomplete)}*")):
        return []
    return [one.name for one in shipped.shipped_recipes() if one.name.startswith(incomplete)]


RecipeArgument = Annotated[
    Path,
    typer.Argument(
        help="The recipe's YAML file, or the name of a shipped one.", show_default=False, autocompletion=complete_recipe
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change any field: --set training.learning_rate=1e-4. May be given again.", metavar="FIELD=VALUE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"alignkit {version('alignkit')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune, align and evaluate language models: one recipe, one command."""
