"""Commands that ask a model: predict, judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.app import JsonOption, RecipeArgument, SetOption, app


@app.command()
def predict(
    result: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="Rows: jsonl, json, csv, tsv, parquet or txt; - is stdin.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the answers here (by default to stdout); a stopped one goes on.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
) -> None:
    """Answer every row of a file, as JSON lines in the same order: labels, completions or rewards.

    Example: alignkit predict runs/tiny-classify reviews.jsonl --out answers.jsonl
    """
    from alignkit.predict import predict as answer

    answer(result, file, out, overwrite=overwrite)


@app.command()
def judge(recipe: RecipeArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Compare pairs of answers by a judge model, in both orders, and write the preferences down.

    Started again, it asks only what has no readable reply yet.

    Example: alignkit judge recipes/judge.yaml
    """
    from alignkit import api

    summary = api.judge(api.load_recipe(recipe, set_ or (), "judge"))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    agreement = summary["agreement_rate"]
    shown = "none" if agreement is None else "{value:.3f} [{0:.3f}, {1:.3f}]".format(*agreement["ci95"], **agreement)
    typer.echo(
        f"{summary['preferences']:,} preferences of {summary['pairs']:,} pairs; {summary['ties']:,} ties, "
        f"{summary['position_decided']:,} decided by position alone; agreement of the two orders {shown}"
    )
