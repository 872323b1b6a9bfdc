"""Commands that ask a result: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.app import app


@app.command()
def predict(
    result: Annotated[str, typer.Argument(help="A run folder, a model folder or a Hub id.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="Rows: jsonl, json, csv, tsv, parquet or txt.", show_default=False)],
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
