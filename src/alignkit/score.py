"""`alignkit score`: metrics over files of texts, without any model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit import metrics, statistics
from alignkit.errors import Problem, UserError
from alignkit.metrics.names import did_you_mean
from alignkit.metrics.parallel import Progress

STDIN = "-"
_JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_TASKS = {
    "probabilities": "a classification task",
    "rewards": "a preference task",
    "preferences": "a judge",
    "likelihoods": "a perplexity task",
    "samples": "a generation task with several samples",
}


def score(
    metric: Sequence[str],
    predictions: str,
    references: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    clusters: str | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = statistics.SEED,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Score a file of predictions against files of references, item by item.

    A file is text with one item a line, `FILE.jsonl:COLUMN` (a column may hold a list of references), or `-` for stdin
    (`-:COLUMN` for JSON lines). `options` are the metrics' own (`tokenize`, `stemmer`, `answer`, …); each metric takes
    those it knows. `clusters` is a column or file that names each item's document: intervals then resample documents.

    Returns for each metric `metric, value, ci95, n, signature`, and `empty` (predictions that say nothing and so score
    zero) where there are any. Raises UserError for whatever the user can mend.
    """
    try:
        names = metrics.expand(metric)
    except UserError as error:
        raise UserError([replace(one, field="--metric") for one in error.problems]) from error
    if not names:
        raise UserError(Problem("no metric given", field="--metric", hint="for instance --metric bleu"))
    given = {key: value for key, value in (options or {}).items() if value not in (None, False)}
    _check_needs(names, references, given)
    said, columns = _read(predictions, references)
    groups = _read_one(clusters, "--clusters") if clusters else None
    if groups is not None and len(groups) != len(said):
        raise UserError(f"--clusters has {len(groups)} lines, --predictions has {len(said)}")
    measured = [
        found
        for needs, wanted in _by_needs(names).items()
        for found in metrics.measure(wanted, *_shaped(needs, said, columns), options=given, progress=progress)
    ]
    measured.sort(key=lambda found: names.index(found.name))
    limits = statistics.intervals(measured, clusters=groups, resamples=resamples, seed=seed)
    return [_row(found, limit) for found, limit in zip(measured, limits, strict=True)]


def _row(found: metrics.Measurement, limits: tuple[float, float]) -> dict[str, Any]:
    row = {
        "metric": found.name,
        "value": found.value,
        "ci95": list(limits),
        "n": found.n,
        "signature": found.signature,
    }
    return {**row, "empty": found.empty} if found.empty else row


def _by_needs(names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(metrics.get(name).needs, []).append(name)
    return groups


def _check_needs(names: Sequence[str], references: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse what files of texts cannot give, and options that none of the metrics takes."""
    problems = []
    known: set[str] = set()
    for name in names:
        needs = metrics.get(name).needs
        known.update(metrics.get(name).options)
        if needs in _TASKS:
            message = f"{name} needs a model's numbers, not texts"
            problems.append(Problem(message, field="--metric", hint=f"use alignkit eval with {_TASKS[needs]}"))
        elif needs != "generated" and not references:
            problems.append(Problem(f"{name} needs --references", field="--metric"))
        elif needs in ("labels", "tags") and len(references) > 1:
            problems.append(
                Problem(f"{name} takes one file of references, not {len(references)}", field="--references")
            )
    for option in given:
        if option not in known:
            flag = f"--{option.replace('_', '-')}"
            problems.append(Problem(f"none of {', '.join(names)} takes it", field=flag))
    if problems:
        raise UserError(problems)


def _shaped(needs: str, said: list[Any], columns: list[list[Any]]) -> tuple[Any, Any]:
    """Predictions and references in the form that the metrics take."""
    if needs == "tags":
        return [_tags(value) for value in said], [_tags(value) for value in columns[0]]
    texts = [_text(value, place) for place, value in enumerate(said, 1)]
    if needs == "labels":
        return [text.strip() for text in texts], [_text(v, place).strip() for place, v in enumerate(columns[0], 1)]
    choices = [[text for value in row for text in _texts(value)] for row in zip(*columns, strict=True)]
    missing = [place for place, row in enumerate(choices, 1) if not row]
    if missing:
        raise UserError(Problem(f"item {missing[0]} has no reference ({len(missing)} such)", field="--references"))
    return texts, choices


def _tags(value: Any) -> list[str]:
    return [str(tag) for tag in value] if isinstance(value, list) else str(value).split()


def _texts(value: Any) -> list[str]:
    """The references in one cell: none, one, or a list. An empty text is a reference that says nothing."""
    if value is None:
        return []
    return [str(item) for item in value if item is not None] if isinstance(value, list) else [str(value)]


def _text(value: Any, place: int) -> str:
    if isinstance(value, list | dict):
        raise UserError(Problem(f"item {place} is a {type(value).__name__}, not one text"))
    return "" if value is None else str(value)


# ---------------------------------------------------------------------- reading
def _read(predictions: str, references: Sequence[str]) -> tuple[list[Any], list[list[Any]]]:
    """The items of each file. Raises UserError where their counts differ or a file holds nothing."""
    if sum(_split_column(name)[0] == STDIN for name in (predictions, *references)) > 1:
        raise UserError("stdin (-) can be only one of the files")
    said = _read_one(predictions, "--predictions")
    columns = [_read_one(reference, "--references") for reference in references]
    for reference, column in zip(references, columns, strict=True):
        if not any(text.strip() for value in column for text in _texts(value)):
            raise UserError(Problem("the reference file is empty", file=reference))
        if len(column) != len(said):
            message = f"{len(column)} references but {len(said)} predictions in {predictions}"
            raise UserError(Problem(message, file=reference, hint="line N of one must belong to line N of the other"))
    if not said:
        raise UserError(Problem("the predictions file is empty", file=predictions))
    return said, columns


def _read_one(name: str, option: str) -> list[Any]:
    """The items of a text file, a JSONL column or stdin."""
    file, column = _split_column(name)
    if column is None and file.endswith(_JSON_LINES):
        columns = ", ".join(_first_columns(file, option)) or "none found"
        raise UserError(
            Problem("say which column to read", file=file, hint=f"{option} {file}:COLUMN, one of {columns}")
        )
    lines = _lines(file, option)
    if column is None:
        return [line for _, line in lines]
    return [_column_of(line, column, file, number) for number, line in lines if line.strip()]


def _split_column(name: str) -> tuple[str, str | None]:
    """`FILE:COLUMN` for JSON lines and stdin; a colon in any other file's name belongs to the name."""
    file, colon, column = name.rpartition(":")
    if colon and (file == STDIN or file.endswith(_JSON_LINES)) and column:
        return file, column
    return name, None


def _lines(file: str, option: str) -> Iterator[tuple[int, str]]:
    """Numbered lines, split at newlines only, decoded as UTF-8. Raises UserError with the line that is not UTF-8."""
    for number, raw in enumerate(_split(_bytes(file, option)), 1):
        try:
            yield number, raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"not UTF-8: byte {raw[error.start]:#04x} at column {error.start + 1}"
            raise UserError(Problem(message, file=_shown(file), line=number, hint="save the file as UTF-8")) from error


def _split(content: bytes) -> list[bytes]:
    if not content:
        return []
    return content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")


def _bytes(file: str, option: str) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read()
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(Problem(f"cannot read it: {error.strerror}", file=file, field=option)) from error
    if file.endswith(".gz"):
        import gzip

        try:
            return gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise UserError(Problem(f"not a whole gzip file: {error}", file=file, field=option)) from error
    return content


def _shown(file: str) -> str:
    return "<stdin>" if file == STDIN else file


def _column_of(line: str, column: str, file: str, number: int) -> Any:
    """The column's value; `a.b` reaches into objects where there is no column of that very name."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(Problem(f"not JSON: {error.msg}", file=_shown(file), line=number)) from error
    if isinstance(row, dict) and column in row:
        return row[column]
    value = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            hint = did_you_mean(column, row) if isinstance(row, dict) else None
            message = f"no column {column!r} (there are: {there})"
            raise UserError(Problem(message, file=_shown(file), line=number, hint=hint))
        value = value[part]
    return value


def _first_columns(file: str, option: str) -> list[str]:
    for _, line in _lines(file, option):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return []
        return list(row) if isinstance(row, dict) else []
    return []


# ---------------------------------------------------------------------- the command
def command(
    metric: Sequence[str],
    predictions: str,
    references: Sequence[str] = (),
    *,
    as_json: bool = False,
    clusters: str | None = None,
    **options: Any,
) -> None:
    """Print what `score` finds: a table, or with `as_json` the list; progress goes to stderr."""
    with _Bar() as progress:
        rows = score(metric, predictions, references, options=options, clusters=clusters, progress=progress)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print_table(rows)


class _Bar:
    """A progress bar on a terminal's stderr, from the first report on; nothing elsewhere."""

    def __enter__(self) -> Progress | None:
        self._progress: Any = None
        return self._update if sys.stderr.isatty() else None

    def _update(self, done: int, total: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._progress = Bar(console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task("scoring", total=total)
        self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for title in ("value", "95% interval", "n"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("signature", overflow="fold")
    for row in rows:
        digits = 2 if metrics.get(row["metric"]).scale == "percent" else 4
        low, high = row["ci95"]
        shown = f"{low:.{digits}f} – {high:.{digits}f}"
        table.add_row(row["metric"], f"{row['value']:.{digits}f}", shown, str(row["n"]), row["signature"])
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    empty = max((row.get("empty", 0) for row in rows), default=0)
    if empty:
        print(f"{empty} empty prediction{'s' if empty > 1 else ''} among {rows[0]['n']}: they score zero")
