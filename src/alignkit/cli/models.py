"""Commands that use a result: merge, chat."""

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


@app.command()
def chat(
    target: Annotated[
        str, typer.Argument(help="A run folder, a model or adapter folder, or a Hub id.", show_default=False)
    ],
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="Answer this and end; - reads it from stdin.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    compare: Annotated[
        str | None, typer.Option(help="Another model to answer beside it; `base`: the one training started from.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sample, the bolder the higher.", min=0, show_default="greedy")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest of this share.", min=0, max=1)] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.", min=1)] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 42,
) -> None:
    """Talk to a result in the terminal: answers as they are written, with history.

    Example: alignkit chat runs/tiny-sft -p "12+34="

    Example: alignkit chat runs/lora-qwen --compare base --temperature 0.7
    """
    from alignkit import chat as talk

    sampled = {"temperature": temperature or None, "top_p": top_p, "top_k": top_k}
    given = {name: value for name, value in sampled.items() if value is not None}
    generation = {"max_new_tokens": max_new_tokens, **({"do_sample": True, **given} if given else {})}
    talk.command(target, prompt=prompt, system=system, compare=compare, generation=generation, seed=seed)
