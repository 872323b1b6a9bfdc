"""Commands that use a result: merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alignkit.cli.app import JsonOption, app


@app.command()
def merge(
    target: Annotated[str, typer.Argument(help="A run folder or an adapter folder.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where the merged model goes.", show_default="RUN/merged", metavar="FOLDER")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Where the adapter's base lies now, if it was moved.", metavar="MODEL")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the merged weights.", show_default="the base's, as trained on"),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The largest weight file.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a merged model that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base, load the result afresh and compare its logits with the adapter's.

    Example: alignkit merge runs/qlora-llama
    """
    from alignkit import merging

    merging.command(
        target, out=out, base=base, dtype=dtype, max_shard_size=max_shard_size, overwrite=overwrite, as_json=as_json
    )
