"""`alignkit predict`: what a result answers to each row of a file, as JSON lines; a stream, however long the file is.

What kind of result it is decides who answers: see `PREDICTORS`. Everything else (reading, blocks, resuming, progress)
is the same for all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Protocol

from alignkit import launch, methods
from alignkit.console import Voice, logged_to, redirect_libraries
from alignkit.errors import Problem, UserError
from alignkit.examples import Dropped, Layout, Row, iter_rows, local_files, recognise
from alignkit.examples.labels import CONFIG_KEY, TEXT_COLUMNS, TOKEN_COLUMNS
from alignkit.importing import importing
from alignkit.model_folders import cached_snapshot, describe_folder, head_of, nowhere
from alignkit.recipe import Head, Recipe, Source

BLOCK = 1024
"""Rows answered together: they are sorted by length, answered in batches, written, and forgotten."""
PATIENCE = 5.0  # seconds between two lines of progress
CHECKED = 2000  # rows that are checked before anything heavy is imported


class Predictor(Protocol):
    """A loaded result. `answer` takes what a kind's `asks` made of rows, and gives an object for each, in order."""

    def answer(self, asked: Sequence[Any]) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Result:
    """A result to ask: its model folder (or a Hub id), what it answers with and has on top, and its run's recipe."""

    model: str
    kind: str
    head: Head = "causal_lm"
    recipe: Recipe | None = None

    @property
    def columns(self) -> dict[str, str]:
        """How the training data's columns were named: our word -> theirs."""
        data = None if self.recipe is None else self.recipe.data
        return {} if data is None else dict(data.train[0].columns)


@dataclass(frozen=True)
class Kind:
    """How results of one kind are asked.

    `asks`: for a result, the function that makes of a row what is asked; it raises a UserError with file and line for a
    row that can't be asked, and imports nothing heavy. `module`: has `load(result) -> Predictor`. `block`: rows
    answered, and written, together.
    """

    asks: Callable[[Result], Callable[[Row], Any]]
    module: str
    block: int = BLOCK


# ---------------------------------------------------------------------- the command
def predict(result: str, file: str | Path, out: Path | None = None, *, overwrite: bool = False) -> int:
    """Write an answer a row of `file` (`-` for stdin) to `out`, or to stdout; returns how many. An interrupted `out` is
    gone on with.

    Raises:
        UserError: no such result or file, or a row that the result can't answer.
    """
    launch.set_environment()
    asked = find_result(result)
    kind = PREDICTORS[asked.kind]
    with _placed(str(file)) as (source, folder):
        files = local_files(source, folder)
        if files is None:
            raise UserError(Problem("no such file", file=str(file)))
        ask = kind.asks(asked)
        rows: Iterator[tuple[Row, Any]] = ((row, ask(row)) for row in iter_rows(source, folder))
        head = list(islice(rows, CHECKED))  # what is wrong near the top is said before torch is imported
        with _writer(out, _fingerprint(asked, files), overwrite=overwrite) as writer:
            return _answer(asked, kind, chain(head, rows), writer)


@contextlib.contextmanager
def _placed(file: str) -> Iterator[tuple[Source, Path]]:
    """The source, and the folder it is relative to. `-` is stdin, kept in a file while it is answered: JSON lines, or
    texts, a line each."""
    if file != "-":
        yield Source(path=file), Path.cwd()
        return
    with tempfile.TemporaryDirectory(prefix="alignkit-") as folder:
        kept = Path(folder) / "stdin"
        with kept.open("w+b") as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
            spool.seek(0)
            first = next((line.lstrip() for line in spool if line.strip()), b"")
        name = "stdin.jsonl" if first.startswith(b"{") else "stdin.txt"
        kept.rename(kept.with_name(name))
        try:
            yield Source(path=name), Path(folder)
        except UserError as error:  # a folder that is gone in a moment would help nobody
            raise UserError(
                [
                    replace(one, file="stdin") if Path(one.file or "").parent == kept.parent else one
                    for one in error.problems
                ]
            ) from error


def _answer(asked: Result, kind: Kind, rows: Iterator[tuple[Row, Any]], writer: _Writer) -> int:
    with logged_to(Path(os.devnull)):
        say = Voice()
        say(f"loading {asked.model}")
        with importing():
            module: Any = import_module(kind.module)
        redirect_libraries()
        import_module("transformers.utils.logging").disable_progress_bar()
        predictor: Predictor = module.load(asked)
        say.release()
        return _stream(predictor, rows, writer, say, kind.block)


def _stream(predictor: Predictor, rows: Iterator[tuple[Row, Any]], writer: _Writer, say: Voice, size: int) -> int:
    for _ in range(writer.done):
        next(rows, None)
    began = spoken = time.monotonic()
    first = writer.done
    if first:
        say(f"going on after {first:,} rows that were answered before")
    while block := list(islice(rows, size)):
        answers = predictor.answer([asked for _, asked in block])
        writer.write([{"id": row.id, **answer} for (row, _), answer in zip(block, answers, strict=True)])
        if time.monotonic() - spoken > PATIENCE:
            spoken = time.monotonic()
            say(f"{writer.done:,} rows, {(writer.done - first) / (spoken - began):,.0f} a second")
    seconds = time.monotonic() - began
    say(f"{writer.done:,} rows in {seconds:,.1f} s ({(writer.done - first) / max(seconds, 1e-9):,.0f} a second)")
    return writer.done


# ---------------------------------------------------------------------- what is asked
def find_result(name: str) -> Result:
    """A run folder, a model or adapter folder, or a Hub id, and what it answers with. Raises UserError."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists():
            raise UserError(Problem("no such run or model folder", file=name))
        if (problem := nowhere(name)) is not None:
            raise UserError(problem)
        return _on_hub(name)
    if (folder / "recipe.yaml").is_file():
        if not (folder / "model").is_dir():
            message = "the run has no result yet"
            raise UserError(
                Problem(message, file=name, hint="train it to its end: --resume goes on with a stopped run")
            )
        recipe = methods.load_for_evaluation(folder / "recipe.yaml")
        return Result(str(folder / "model"), _known(methods.get(recipe.method).answers, name), recipe.head, recipe)
    described = describe_folder(folder)
    if described.problems:
        raise UserError([Problem(message, file=name) for message in described.problems])
    head = described.head
    return Result(str(described.path), _kind(described.config, head), head)


def _on_hub(name: str) -> Result:
    """A model on the Hub, by its config in the local cache; one that is not there yet is taken for a classifier."""
    folder = cached_snapshot(name)
    found = next(
        (path for path in ("adapter_config.json", "config.json") if folder and (folder / path).is_file()), None
    )
    if folder is None or found is None:
        return Result(name, "labels", "sequence_classification")
    config = json.loads((folder / found).read_text(encoding="utf-8"))
    head = head_of(config)
    return Result(name, _kind(config, head), head)


def _kind(config: Mapping[str, Any], head: Head) -> str:
    """What a model answers with, by its config: one output that is no classifier's is a reward."""
    if head == "causal_lm":
        return "completions"
    single = head == "sequence_classification" and len(config.get("id2label") or {}) == 1
    return "rewards" if single and CONFIG_KEY not in config else "labels"


def _known(kind: str, name: str) -> str:
    if kind not in PREDICTORS:
        raise UserError(Problem(f"it answers with {kind}; predict knows {', '.join(PREDICTORS)}", file=name))
    return kind


def _fingerprint(asked: Result, files: Sequence[Path]) -> str:
    """What tells whether half an output belongs to this question: the model's files and the file that is read."""
    folder = Path(asked.model)
    seen = [*files, *(sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ())]
    parts = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in seen]
    return hashlib.sha256(json.dumps([asked.model, asked.kind, parts]).encode()).hexdigest()


# ---------------------------------------------------------------------- rows to what is asked
def _texts_or_words(asked: Result) -> Callable[[Row], Any]:
    """A text of each row, or the words of a sentence for a tagger (of plain text, what stands between spaces)."""
    words = asked.head == "token_classification"

    def ask(row: Row) -> Any:
        names = [asked.columns[word] for word in ("tokens", "text") if word in asked.columns]
        names += [*TOKEN_COLUMNS, *TEXT_COLUMNS] if words else TEXT_COLUMNS
        name = next((name for name in names if name in row.data), None)
        if name is None:
            have, wanted = ", ".join(map(str, row.data)), TOKEN_COLUMNS[0] if words else TEXT_COLUMNS[0]
            raise UserError(_at(row, f"no column {wanted}; there are {have}", None))
        value = row.data[name]
        value = "" if value is None else value
        if words and isinstance(value, list) and all(isinstance(word, str) for word in value):
            return value
        if not isinstance(value, str):
            raise UserError(_at(row, "must be text" + (", or a list of texts" if words else ""), name))
        return value.split() if words else value

    return ask


def _at(row: Row, message: str, column: str | None) -> Problem:
    return Problem(message if row.line is not None else f"row {row.number}: {message}", row.origin, row.line, column)


def _by_layout(*shapes: str) -> Callable[[Result], Callable[[Row], Any]]:
    """Each row as an example of one of these shapes, read as training reads it; a text alone is taken as it is."""

    def asks(asked: Result) -> Callable[[Row], Any]:
        known: dict[tuple[str, ...], Layout] = {}

        def ask(row: Row) -> Any:
            if "prompt_only" in shapes and "text" in row.data and "prompt" not in row.data:
                row = replace(row, data={**row.data, "prompt": row.data["text"]})
            columns = tuple(map(str, row.data))
            if columns not in known:
                mapped = {ours: theirs for ours, theirs in asked.columns.items() if theirs in row.data}
                try:
                    known[columns] = recognise([row], Source(path=row.origin, columns=mapped), shapes)
                except UserError as error:
                    raise UserError([replace(one, file=row.origin, line=row.line) for one in error.problems]) from error
            item = next(iter(known[columns].convert(row)))
            if isinstance(item, Dropped):
                raise UserError(_at(row, item.reason, None))
            return item

        return ask

    return asks


PREDICTORS = {
    "labels": Kind(_texts_or_words, "alignkit.evaluation.predictor"),
    "completions": Kind(_by_layout("prompt_only"), "alignkit.evaluation.completer", block=64),
    "rewards": Kind(_by_layout("preference", "prompt_completion", "language_modeling"), "alignkit.evaluation.rewarder"),
}
"""What a result answers with (a method's `answers`) -> how it is asked."""


# ---------------------------------------------------------------------- what is written
class _Writer:
    """Answers as JSON lines; `done` of them stand already."""

    def __init__(self, stream: IO[str], done: int = 0) -> None:
        self.stream = stream
        self.done = done

    def write(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.stream.write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
        self.stream.flush()
        self.done += len(answers)


@contextlib.contextmanager
def _writer(out: Path | None, fingerprint: str, *, overwrite: bool) -> Iterator[_Writer]:
    """To stdout, or into `out`.partial, which becomes `out` when the last answer stands in it."""
    if out is None:
        yield _Writer(sys.stdout)
        return
    if out.exists() and not overwrite:
        raise UserError(Problem("is there already", file=out, field="--out", hint="--overwrite replaces it"))
    partial, note = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.partial.json")
    done = 0
    if partial.exists() and note.exists() and note.read_text(encoding="utf-8") == fingerprint:
        done = _whole_lines(partial)
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(b"")
            note.write_text(fingerprint, encoding="utf-8")
        except OSError as error:
            raise UserError(Problem(f"cannot write there: {error.strerror}", file=out, field="--out")) from error
    with partial.open("a", encoding="utf-8") as stream:
        yield _Writer(stream, done)
    partial.replace(out)
    note.unlink()


def _whole_lines(path: Path) -> int:
    """How many lines a file has; a last one that a kill cut short is taken off."""
    done = whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            done, whole = done + 1, whole + len(line)
    os.truncate(path, whole)
    return done
