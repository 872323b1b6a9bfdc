"""Commands of a recipe: the training commands, which come from the registry in methods/, check and schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from alignkit import methods
from alignkit.cli.app import JsonOption, RecipeArgument, SetOption, app
from alignkit.cli.results import show_rehearsal, show_run
from alignkit.errors import UserError


def _training_command(name: str, summary: str) -> Callable[..., None]:
    def command(
        recipe: RecipeArgument,
        set_: SetOption = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace the run that the output folder holds.")
        ] = False,
        allow_changes: Annotated[
            bool,
            typer.Option("--allow-changes", help="With --resume: go on though the recipe or the data has changed."),
        ] = False,
        accelerate: Annotated[
            str | None,
            typer.Option(
                help="Several processes: cpu, multi_gpu, fsdp2, deepspeed_zero3, …, or an Accelerate config's path.",
                metavar="NAME|PATH",
            ),
        ] = None,
        rehearse: Annotated[
            bool, typer.Option("--rehearse", help="Only try: a shrunk random model, a slice of the data, a few steps.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        from alignkit import api

        loaded = api.load_recipe(recipe, set_ or (), name)
        if rehearse:
            if resume or overwrite or allow_changes:
                raise UserError("--rehearse tries a recipe apart from its run: leave --resume and --overwrite out")
            run, notes = api.rehearse(loaded, accelerate=accelerate)
            show_rehearsal(run, notes, as_json)
            return
        run = api.train(loaded, resume=resume, overwrite=overwrite, allow_changes=allow_changes, accelerate=accelerate)
        if not run.elsewhere:
            show_run(run, as_json)

    command.__doc__ = f"{summary}\n\nExample: alignkit {name} recipes/tiny/{name}.yaml"
    return command


for _name, _summary in methods.SUMMARIES.items():
    app.command(_name)(_training_command(_name, _summary))


@app.command()
def check(recipe: RecipeArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Validate a recipe, its data files and its model folder, without importing torch.

    Example: alignkit check recipes/qlora_llama.yaml
    """
    from alignkit import api

    loaded = api.load_recipe(recipe, set_ or ())
    sources = api.check(loaded)
    if as_json:
        typer.echo(json.dumps(loaded.resolved(), indent=2, default=str))
    else:
        typer.echo(f"{recipe}: a valid {loaded.method} recipe")
        for field, source, layout in sources:
            typer.echo(f"  {field}: {source}, read as {layout}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    Example: alignkit schema > recipe.schema.json
    """
    from alignkit.recipe.schema import schema_text

    typer.echo(schema_text(methods.recipe_classes()), nl=False)
