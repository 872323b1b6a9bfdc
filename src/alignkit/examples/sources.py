"""A source of the recipe to examples: its rows, their layout, and each row converted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import Problem, UserError
from alignkit.examples.files import format_of, local_files
from alignkit.examples.generate import generated_rows
from alignkit.examples.layouts import Layout, recognise
from alignkit.examples.reading import Report, check_options, raise_it, read_file
from alignkit.examples.types import Dropped, Example, Row

if TYPE_CHECKING:
    from alignkit.recipe.sections import Source

SAMPLE = 50  # rows that a layout is recognised by: columns that some rows lack are among them


def shown(path: Path) -> str:
    """A path as errors print it: from the current folder where it lies below that."""
    full = path if path.is_absolute() else Path.cwd() / path
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(path)


def iter_rows(
    source: Source, base_dir: Path, report: Report = raise_it, byte_limit: int | None = None
) -> Iterator[Row]:
    """The rows of local files or of a generator, `max_rows` at most.

    What cannot be read is a UserError with file and line, or goes to `report`. Raises UserError for what is wrong
    with the source itself, with the source's field and no file. Not for Hub ids.
    """
    return islice(_all_rows(source, base_dir, report, byte_limit), source.max_rows)


def _all_rows(source: Source, base_dir: Path, report: Report, byte_limit: int | None) -> Iterator[Row]:
    if source.generate is not None:
        origin = f"generate:{source.generate}"
        for number, data in enumerate(generated_rows(source.generate, source.options), 1):
            yield Row(origin, None, number, data)
        return
    files = local_files(source, base_dir)
    assert files is not None, "rows of a Hub data set come from data/"
    if files:
        check_options(format_of(files[0]) or "", source.options)
    number = 0
    for file, name in zip(files, _names(files), strict=True):
        origin = shown(file)
        before, nth = None, 1
        for line, record in read_file(file, origin, source.options, report, byte_limit):
            number += 1
            nth = nth + 1 if line is not None and line == before else 1
            before = line
            yield Row(origin, line, number, record, name, nth)


def _names(files: list[Path]) -> list[str]:
    """What tells a source's files apart: their names, with the folders below the common one where names recur."""
    if len({file.name for file in files}) == len(files):
        return [file.name for file in files]
    common = os.path.commonpath([file.parent for file in files])
    return [str(file.relative_to(common)) for file in files]


def read_source(
    source: Source, base_dir: Path, shapes: Iterable[str], rows: Iterable[Row] | None = None
) -> tuple[Layout, Iterator[Example | Dropped]]:
    """The layout of a source and its examples, read as they are asked for. `rows` are given for Hub data sets.

    Raises UserError for what the source, its files or its columns have wrong; the iterator raises for rows.
    """
    stream = iter_rows(source, base_dir) if rows is None else islice(rows, source.max_rows)
    head = list(islice(stream, SAMPLE))
    if not head:
        raise UserError(Problem(f"{source.path or source.generate} has no rows", field="path"))
    layout = recognise(head, source, tuple(shapes))
    return layout, chain.from_iterable(map(layout.convert, chain(head, stream)))


def examples_of(
    source: Source, base_dir: Path, shapes: Iterable[str], rows: Iterable[Row] | None = None
) -> Iterator[Example | Dropped]:
    """The examples of a source; see `read_source`."""
    return read_source(source, base_dir, shapes, rows)[1]
