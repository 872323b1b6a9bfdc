"""The command line: one short function a command. The training commands come from the registry in methods/."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignkit import methods
from alignkit.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, Interrupted, RunFailed, UserError

if TYPE_CHECKING:
    from alignkit.runs import Run

app = typer.Typer(
    name="alignkit",
    help="Fine-tune, align and evaluate language models: one recipe, one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe's YAML file.", show_default=False)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change any field: --set training.learning_rate=1e-4. May be given again.", metavar="FIELD=VALUE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def _training_command(name: str, summary: str) -> Callable[..., None]:
    def command(
        recipe: RecipeArgument,
        set_: SetOption = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace the run that the output folder holds.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        from alignkit import api

        run = api.train(api.load_recipe(recipe, set_ or (), name), resume=resume, overwrite=overwrite)
        _show_run(run, as_json)

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
    api.check(loaded)
    if as_json:
        typer.echo(json.dumps(loaded.resolved(), indent=2, default=str))
    else:
        typer.echo(f"{recipe}: a valid {loaded.method} recipe")


@app.command("eval")
def evaluate(
    target: Annotated[
        str, typer.Argument(help="A recipe, a run folder, a model folder or a Hub id.", show_default=False)
    ],
    task: Annotated[
        str | None, typer.Option(help="A quick task instead of the recipe's: generation or perplexity.")
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
        _show_scores(scores)


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
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    Example: alignkit schema > recipe.schema.json
    """
    from alignkit.recipe.schema import schema_text

    typer.echo(schema_text(methods.recipe_classes()), nl=False)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]) -> None:
    """Make a run's report again from its files.

    Example: alignkit report runs/tiny-sft
    """
    from alignkit.report import command

    command(run)


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


# ---------------------------------------------------------------------- results and endings
def _show_run(run: Run, as_json: bool) -> None:
    """The result on stdout: what came out, how good it is, where it lies."""
    losses = [line["eval_loss"] for line in run.metrics() if line.get("eval_loss") is not None]
    if as_json:
        result = {
            "run": str(run.path),
            "state": "finished",
            "model": str(run.model_dir),
            "report": str(run.report_path),
        }
        typer.echo(
            json.dumps({**result, "eval_loss": losses[-1] if losses else None, "scores": run.scores()}, indent=2)
        )
        return
    figures = run.manifest.get("result", {})
    if losses:
        typer.echo(f"eval loss {losses[0]:.4f} → {losses[-1]:.4f}" if len(losses) > 1 else f"eval loss {losses[0]:.4f}")
    _show_scores(run.scores())
    if figures:
        rate = f"{figures['tokens_per_second']:,.0f} tokens/s"
        typer.echo(
            f"{figures['steps']} steps, {figures['tokens']:,} tokens in {figures['train_time_s']:.0f} s ({rate})"
        )
    typer.echo(f"model:  {run.model_dir}\nreport: {run.report_path}")


def _show_scores(scores: list[dict[str, Any]]) -> None:
    """One line a score: task, metric, and each model's value with its interval, side by side."""
    shown: dict[tuple[str, str], list[str]] = {}
    for score in scores:
        if score.get("slice") is None and score["value"] is not None:
            interval = " [{:.4g}, {:.4g}]".format(*score["ci95"]) if score.get("ci95") else ""
            text = f"{score['model']} {score['value']:.4g}{interval}"
            shown.setdefault((score["name"], score["metric"]), []).append(text)
    for (name, metric), texts in shown.items():
        typer.echo(f"{name}  {metric}  " + "   ".join(texts))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that its ending has."""
    command = typer.main.get_command(app)
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail(EXIT_USER, "the current folder no longer exists; change to another")
    try:
        code: Any = command.main(args=arguments, prog_name="alignkit", standalone_mode=False)
    except UserError as error:
        _fail(EXIT_USER, *(str(problem) for problem in error.problems))
    except Interrupted as error:
        _fail(EXIT_INTERRUPTED, f"{error}", note=f"continue with: {error.resume}" if error.resume else None)
    except (KeyboardInterrupt, typer.Abort):
        _fail(EXIT_INTERRUPTED, "stopped")
    except RunFailed as error:
        _fail(EXIT_FAILED, str(error))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our stdout has gone (`alignkit … | head`): there is nobody to tell
        sys.exit(EXIT_FAILED)
    except Exception as error:
        # By its version, Typer carries a copy of click or imports it: a usage error is known by its shape.
        if hasattr(error, "format_message"):
            _fail(EXIT_USER, _usage(error.format_message()))
        _fail(EXIT_FAILED, _unforeseen(error))
    sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> str:
    """One line for what no one foresaw; its traceback goes into a file of its own."""
    import tempfile
    import traceback

    line = f"{type(error).__name__}: {error or 'no message'}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="alignkit-", suffix=".log", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return line
    return f"{line} (details: {file.name})"


def _usage(message: str) -> str:
    if "No such command" not in message or "Did you mean" in message:
        return message
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    near = difflib.get_close_matches(message.split("'")[1], names, n=1, cutoff=0.5)
    return f"{message} " + (f"Did you mean {near[0]!r}?" if near else f"The commands: {', '.join(sorted(names))}.")


def _fail(code: int, *lines: str, note: str | None = None) -> None:
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    if note:
        print(note, file=sys.stderr)
    sys.exit(code)
