"""How results are printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from alignkit.runs import Run


def show_rehearsal(run: Run, notes: list[str], as_json: bool) -> None:
    """That the recipe runs, and what that does not tell."""
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "state": "finished", "not_told": notes}, indent=2))
        return
    steps = run.manifest.get("result", {}).get("steps")
    typer.echo(f"the rehearsal ran: {steps} steps, evaluation and report in {run.path}")
    typer.echo("what it cannot tell:")
    for note in notes:
        typer.echo(f"  - {note}")


def show_run(run: Run, as_json: bool) -> None:
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
    show_scores(run.scores())
    if figures:
        rate = f"{figures['tokens_per_second']:,.0f} tokens/s"
        typer.echo(
            f"{figures['steps']} steps, {figures['tokens']:,} tokens in {figures['train_time_s']:.0f} s ({rate})"
        )
    typer.echo(f"model:  {run.model_dir}\nreport: {run.report_path}")


def show_scores(scores: list[dict[str, Any]]) -> None:
    """One line a score: task, metric, and each model's value with its interval, side by side."""
    shown: dict[tuple[str, str], list[str]] = {}
    for score in scores:
        if score.get("slice") is None and score["value"] is not None:
            interval = " [{:.4g}, {:.4g}]".format(*score["ci95"]) if score.get("ci95") else ""
            text = f"{score['model']} {score['value']:.4g}{interval}"
            shown.setdefault((score["name"], score["metric"]), []).append(text)
    for (name, metric), texts in shown.items():
        typer.echo(f"{name}  {metric}  " + "   ".join(texts))
