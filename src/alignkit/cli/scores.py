"""Commands that measure: eval, score, compare, report; and that look at a run: reproduce, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from alignkit.cli.app import JsonOption, SetOption, app
from alignkit.cli.results import show_scores
from alignkit.errors import UserError


@app.command("eval")
def evaluate(
    target: Annotated[
        str, typer.Argument(help="A recipe, a run folder, a model folder or a Hub id.", show_default=False)
    ],
    task: Annotated[
        str | None, typer.Option(help="A quick task instead of the recipe's: generation, perplexity or classification.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The quick task's data file.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="The quick task's metrics. May be given again.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Use at most this many rows for the quick task.", min=1)] = None,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores here instead of into the run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a result beside the model that its training started from, with 95 % intervals.

    Example: alignkit eval runs/tiny-sft

    Example: alignkit eval path/to/model --task perplexity --data held_out.jsonl
    """
    from alignkit import api

    if (task is None) != (data is None):
        raise UserError("a quick task needs both --task and --data")
    quick = [] if task is None else [api.quick_task(task, data, metric or (), max_rows)]
    scores = api.evaluate(target, tasks=quick, out_dir=out, sets=set_ or ())
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
    else:
        show_scores(scores)


@app.command()
def score(
    metric: Annotated[
        list[str], typer.Option(help="A metric's name: bleu, rougeL, exact_match, … May be given again.")
    ],
    predictions: Annotated[str, typer.Option(help="A text file, FILE.jsonl:COLUMN, or - for stdin.")],
    references: Annotated[list[str] | None, typer.Option(help="Like --predictions. Again for several a line.")] = None,
    clusters: Annotated[
        str | None, typer.Option(help="A group's name for each line, where lines belong together.")
    ] = None,
    tokenize: Annotated[str | None, typer.Option(help="BLEU and TER: 13a, intl, zh, char, …")] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="BLEU, chrF: ignore case.")] = False,
    stemmer: Annotated[bool, typer.Option("--stemmer", help="ROUGE: stem English words.")] = False,
    answer: Annotated[
        str | None, typer.Option(help="Compare only the answer: last_number, boxed, after:####, …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score files of texts, without any model.

    Example: alignkit score --metric bleu --predictions sys.txt --references ref1.txt --references ref2.txt --json
    """
    from alignkit.score import command

    given = {"tokenize": tokenize, "lowercase": lowercase or None, "stemmer": stemmer or None, "answer": answer}
    options = {name: value for name, value in given.items() if value is not None}
    command(metric, predictions, references or (), as_json=as_json, clusters=clusters, **options)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or FOLDER:MODEL.", show_default=False)],
    metric: Annotated[list[str] | None, typer.Option(help="Only these metrics. May be given again.")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Also if data or settings differ.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table here (a name without ending).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on the same items: differences, 95 % intervals, p-values, wins and losses.

    Example: alignkit compare runs/a runs/b
    """
    from alignkit.compare import command

    command(runs, allow_different=allow_different, metric=metric or (), as_json=as_json, out=out)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]) -> None:
    """Make a run's report again from its files.

    Example: alignkit report runs/tiny-sft
    """
    from alignkit.report import command

    command(run)


@app.command()
def reproduce(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    output_dir: Annotated[
        Path | None, typer.Option(help="Where it is built again.", show_default="RUN-reproduced", metavar="FOLDER")
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Also if data, base weights, tokenizer or template changed."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a run again from its own recipe, after saying what differs now, and compare the two results.

    Example: alignkit reproduce runs/tiny-sft
    """
    from alignkit.reproduce import command

    command(run, output_dir, allow_changes=allow_changes, as_json=as_json)


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)], as_json: JsonOption = False
) -> None:
    """Say in plain words how a run ended, what is odd about it, and what to try.

    Example: alignkit doctor runs/tiny-sft
    """
    from alignkit.doctor import command

    command(run, as_json=as_json)
