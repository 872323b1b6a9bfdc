"""The recipe's local data, read before anything heavy is imported: every row that a run would stumble over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import Problem, UserError
from alignkit.examples.files import local_files
from alignkit.examples.layouts import recognise
from alignkit.examples.reading import Report
from alignkit.examples.sources import SAMPLE, iter_rows
from alignkit.examples.types import Dropped, Row

if TYPE_CHECKING:
    from alignkit.examples.layouts import Layout
    from alignkit.recipe import Recipe
    from alignkit.recipe.sections import Source

BYTE_BUDGET = 64 * 2**20  # over all sources: a second or two
MOST_PROBLEMS = 10  # a source
GENERATED_ROWS = 200  # enough to see that a generator's options are good
TASK_SHAPES = {
    "generation": ("prompt_completion", "language_modeling", "prompt_only"),
    "perplexity": ("language_modeling", "prompt_completion"),
    "classification": ("labelled",),
    "preference": ("preference",),
    "judge": ("prompt_completion", "language_modeling", "prompt_only"),
}


class _Enough(Exception):
    """So many problems that more would help nobody."""


def precheck(recipe: Recipe, shapes: Sequence[str], byte_budget: int = BYTE_BUDGET) -> list[Problem]:
    """What is wrong with the local and generated data of `data.train`, `data.eval` and `evaluation[].data`.

    `shapes` are those that the method takes, the best first. Reads about `byte_budget` bytes at most. A problem
    of the data names file and line of the data; one of the recipe, the recipe's.
    """
    sources = list(_sources(recipe, shapes))
    problems: list[Problem] = []
    for field, source, wanted in sources:
        found = check_source(source, recipe.base_dir, wanted, byte_budget // max(1, len(sources)))
        problems += at_field(recipe, field, found)
    return problems


def recognised(recipe: Recipe, shapes: Sequence[str]) -> Iterator[tuple[str, Source, Layout]]:
    """(field, source, layout) of each local or generated source, by its first rows. Once `precheck` finds nothing."""
    for field, source, wanted in _sources(recipe, shapes):
        if local_files(source, recipe.base_dir) is not None:
            yield field, source, recognise(list(islice(iter_rows(source, recipe.base_dir), SAMPLE)), source, wanted)


def at_field(recipe: Recipe, field: str, problems: Iterable[Problem]) -> list[Problem]:
    """Problems of a source (no file; a field within the source) as problems of the recipe's file and line."""
    placed = []
    for problem in problems:
        if problem.file is None:
            path = f"{field}.{problem.field}" if problem.field else field
            problem = recipe.problem(path, problem.message, problem.hint)
        placed.append(problem)
    return placed


def _sources(recipe: Recipe, shapes: Sequence[str]) -> Iterator[tuple[str, Source, tuple[str, ...]]]:
    if recipe.data is not None:
        for part in ("train", "eval"):
            for number, source in enumerate(getattr(recipe.data, part) or []):
                yield f"data.{part}.{number}", source, tuple(shapes)
    for number, task in enumerate(recipe.evaluation):
        wanted = TASK_SHAPES.get(task.task)
        for place, source in enumerate(task.data or []):
            if wanted is not None:
                yield f"evaluation.{number}.data.{place}", source, wanted


def check_source(source: Source, base_dir: Path, shapes: Sequence[str], byte_limit: int) -> list[Problem]:
    """The problems of one source; those without a file are the source's own, at a field of it."""
    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        problems.append(problem)
        if len(problems) >= MOST_PROBLEMS:
            raise _Enough

    try:
        files = local_files(source, base_dir)
        if files is None:
            return []  # on the Hub: data/ finds out
        if source.generate is not None:
            rows = islice(iter_rows(source, base_dir), GENERATED_ROWS)
            _check_rows(rows, source, shapes, report, whole=False)
        else:
            whole = sum(map(_unpacked, files)) <= byte_limit
            limit = None if whole else byte_limit // len(files)
            _check_rows(iter_rows(source, base_dir, report, limit), source, shapes, report, whole)
    except UserError as error:
        problems += error.problems
    except _Enough:
        more = Problem("and perhaps more: only the first problems are shown", file=problems[0].file)
        return [*_in_order(problems), more]
    return _in_order(problems)


def _in_order(problems: list[Problem]) -> list[Problem]:
    """By file and line: the rows that a layout is recognised by are read before any is converted."""
    return sorted(problems, key=lambda problem: (str(problem.file or ""), problem.line or 0))


def _unpacked(file: Path) -> int:
    """Bytes to read of a file, roughly: text and tables compress about five times."""
    return file.stat().st_size * (5 if file.suffix.lower() in (".gz", ".parquet") else 1)


def _check_rows(rows: Iterator[Row], source: Source, shapes: Sequence[str], report: Report, whole: bool) -> None:
    """Convert every row and keep only what is wrong; with `whole`, at least one example must come of them."""
    head = list(islice(rows, SAMPLE))
    if not head:
        return  # an empty file has been reported
    layout = recognise(head, source, shapes)
    dropped: Counter[str] = Counter()
    kept = False
    for row in chain(head, rows):
        try:
            for item in layout.convert(row):
                if isinstance(item, Dropped):
                    dropped[item.reason] += 1
                else:
                    kept = True
        except UserError as error:
            kept = True  # once mended, it may be an example
            for problem in error.problems:
                report(problem)
    if whole and not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        report(Problem(f"no example is left: all are dropped ({reasons})", file=head[0].origin))
