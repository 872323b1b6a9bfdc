"""The command that plans: what a recipe will need, before anything is rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from alignkit.cli.app import JsonOption, SetOption, app


@app.command()
def plan(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes' YAML files.", show_default=False)],
    gpu: Annotated[
        str | None, typer.Option(help="The GPU to plan for: h100-80gb, rtx4090-24gb, …; `cpu` for this machine.")
    ] = None,
    num_gpus: Annotated[int, typer.Option(help="GPUs that share the work.", min=1)] = 1,
    accelerate: Annotated[
        str | None, typer.Option(help="How they share it: ddp, zero2, zero3, fsdp2, or an Accelerate config file.")
    ] = None,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="Find the largest micro-batch that fits; needs --gpu.")
    ] = False,
    options: Annotated[
        bool, typer.Option("--options", help="Simulate what would need less memory, and say where that fits.")
    ] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what memory, work and time recipes need, by simulating their own training step. No GPU is needed.

    Example: alignkit plan recipes/qlora_llama.yaml --gpu rtx4090-24gb
    """
    from alignkit import api
    from alignkit.errors import Problem, UserError
    from alignkit.plan.show import as_text, comparison

    made = api.plan_each(
        recipes, set_ or (), gpu=gpu, num_gpus=num_gpus, accelerate=accelerate, max_batch=max_batch, what_helps=options
    )
    plans: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for one in made:
        if isinstance(one, UserError):
            problems += one.problems
            continue
        plans.append(one)
        if not as_json:
            typer.echo(as_text(one) + ("\n" if len(recipes) > 1 else ""))
    if as_json and plans:
        typer.echo(json.dumps(plans[0] if len(recipes) == 1 else plans, indent=2))
    elif len(plans) > 1:
        typer.echo(comparison(plans))
    if problems:
        raise UserError(problems)
