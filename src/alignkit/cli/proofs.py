"""Commands that prove something of a run: verify-resume."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.app import JsonOption, RecipeArgument, SetOption, app


@app.command("verify-resume")
def verify_resume(
    recipe: RecipeArgument,
    set_: SetOption = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each of the two runs.", min=4)] = 8,
    kills: Annotated[int, typer.Option(help="SIGKILLs of the second run, every second one in a save.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments at which it is killed.")] = 0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="With a shrunk random model and a slice of the data.")
    ] = False,
    accelerate: Annotated[
        str | None, typer.Option(help="Several processes, as for training.", metavar="NAME|PATH")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the two runs in this new folder.", metavar="FOLDER", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Kill a short run of a recipe, go on with it, and compare it bit for bit with one that nothing disturbed.

    Example: alignkit verify-resume recipes/tiny/sft.yaml
    """
    from alignkit import api

    loaded = api.load_recipe(recipe, set_ or ())
    with tempfile.TemporaryDirectory(prefix="alignkit-verify-") as folder:
        result = api.verify_resume(
            loaded, keep or Path(folder), steps=steps, kills=kills, seed=seed, rehearse=rehearse, accelerate=accelerate
        )
    if as_json:
        typer.echo(json.dumps({"exact": result.exact, **asdict(result)}, indent=2))
    else:
        width = max(len(verdict.part) for verdict in result.verdicts)
        for verdict in result.verdicts:
            typer.echo(f"{verdict.part:{width}}  {'equal' if verdict.same else 'DIFFERENT':9}  {verdict.detail}")
        typer.echo("resumed exactly, bit for bit" if result.exact else "the resumed run is not the same")
    sys.exit(0 if result.exact else 1)
