"""The command line: one short function a command, one file a group of commands.

Importing a file of this package adds its commands to `app`. None imports anything heavy before a command runs.
"""

from __future__ import annotations

import difflib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from alignkit import methods
from alignkit.cli.app import app
from alignkit.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, Interrupted, RunFailed, UserError
from alignkit.importing import own_process

# The commands join `app`, in the order in which --help lists them.
from alignkit.cli import training, plan, data, rewards, scores, models, answers, proofs, tools  # noqa: F401  # isort: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that its ending has."""
    own_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that cannot write "…" gets "?", and no traceback
            stream.reconfigure(errors="replace")
    try:
        Path.cwd()
    except FileNotFoundError:
        _fail(EXIT_USER, "the current folder no longer exists; change to another")
    try:
        command = typer.main.get_command(app)
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
            _fail(EXIT_USER, _usage(error.format_message(), sys.argv[1:] if arguments is None else arguments))
        _fail(EXIT_FAILED, _unforeseen(error))
    if code == EXIT_INTERRUPTED:  # which Typer makes of Ctrl-C, without a word
        _fail(EXIT_INTERRUPTED, "stopped")
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


def _usage(message: str, words: Sequence[str]) -> str:
    """A usage error, with what was likely meant."""
    if "No such command" in message and "Did you mean" not in message:
        group: Any = typer.main.get_command(app)
        for word in words:  # `alignkit recipes shwo`: the commands of the group that it stands in
            inner = group.commands.get(word)
            group = inner if hasattr(inner, "commands") else group
        known = sorted(group.commands)
        near = difflib.get_close_matches(message.split("'")[1], known, n=1, cutoff=0.5)
        return f"{message} " + (f"Did you mean {near[0]!r}?" if near else f"The commands: {', '.join(known)}.")
    if option := re.match(r"No such option: --([\w-]+)", message):
        if close := re.search(r"\(Possible options: (.*)\)", message):
            return f"No such option: --{option[1]}. Did you mean {close[1]}?"
        if field := _field_named(option[1].replace("-", "_"), words):
            return f"No such option: --{option[1]}. It is a recipe's field: --set {field}=…"
    return message


def _field_named(name: str, words: Sequence[str]) -> str | None:
    """The place of a recipe's field called `name`, for a command that takes `--set`."""
    from alignkit.recipe.suggest import place_of

    method = next((word for word in words if word in methods.SUMMARIES), None)
    if method is None and not {"check", "inspect", "eval"} & set(words):
        return None
    return place_of(name, methods.get(method or "sft").recipe)


def _fail(code: int, *lines: str, note: str | None = None) -> None:
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
    if note:
        print(note, file=sys.stderr)
    sys.exit(code)
