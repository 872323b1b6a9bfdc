"""The recipe's sources, opened: local files are read by `examples`, Hub ids come through `datasets`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets.exceptions import DatasetNotFoundError

from alignkit.errors import Problem, UserError
from alignkit.examples import Dropped, Example, Row, at_field, local_files, read_source

if TYPE_CHECKING:
    from alignkit.examples import Layout
    from alignkit.recipe import Recipe
    from alignkit.recipe.sections import Source


@dataclass
class Opened:
    """One source of the recipe. `files` is None for a Hub id, whose rows are in `hub`."""

    recipe: Recipe
    field: str  # data.train.0
    source: Source
    files: list[Path] | None
    hub: Any = None  # a datasets.Dataset or IterableDataset

    @property
    def name(self) -> str:
        return self.source.path or f"generate:{self.source.generate}"

    @property
    def total(self) -> int | None:
        """Rows, where that is known before they are read."""
        known = len(self.hub) if isinstance(self.hub, datasets.Dataset) else None
        limit = self.source.max_rows
        return known if limit is None else limit if known is None else min(known, limit)

    def read(self, shapes: tuple[str, ...]) -> tuple[Layout, Iterator[Example | Dropped]]:
        """The layout, and the examples as they are asked for; what is wrong is a UserError at its place."""
        with self.placed():
            rows = None if self.hub is None else self._hub_rows()
            layout, examples = read_source(self.source, self.recipe.base_dir, shapes, rows)
        return layout, self._placed(examples)

    def _hub_rows(self) -> Iterator[Row]:
        for number, data in enumerate(self.hub, 1):
            yield Row(self.name, None, number, data)

    def _placed(self, examples: Iterator[Example | Dropped]) -> Iterator[Example | Dropped]:
        with self.placed():
            yield from examples

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Problems without a file are the recipe's: at this source."""
        try:
            yield
        except UserError as error:
            raise UserError(at_field(self.recipe, self.field, error.problems)) from error


def open_sources(recipe: Recipe, part: str, streaming: bool = False) -> list[Opened]:
    """The sources under `data.train` or `data.eval`.

    Raises:
        UserError: missing files; a Hub id that is unknown, gated or can't be reached; an unknown split.
    """
    opened, problems = [], []
    for index, source in enumerate(getattr(recipe.data, part) or []):
        one = Opened(recipe, f"data.{part}.{index}", source, None)
        try:
            with one.placed():
                one.files = local_files(source, recipe.base_dir)
                if one.files is None:
                    one.hub = _load(source, streaming)
            opened.append(one)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return opened


def _load(source: Source, streaming: bool) -> Any:
    wanted = {"name": source.name, "revision": source.revision, "data_files": source.data_files}
    try:
        return datasets.load_dataset(
            source.path, split=source.split or "train", streaming=streaming, **{k: v for k, v in wanted.items() if v}
        )
    except Exception as error:  # whatever it is, this source can't be used, and the user has to know which and why
        raise UserError(_hub_problem(source, error)) from error


def _hub_problem(source: Source, error: Exception) -> Problem:
    name, text = source.path, " ".join(str(error).split())
    if "gated" in text.lower():
        hint = "ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
        return Problem(f"{name} is gated on the Hub, and this machine may not read it", field="path", hint=hint)
    if isinstance(error, DatasetNotFoundError):
        at = f" at revision {source.revision}" if source.revision else ""
        hint = "check the spelling; a private data set needs `hf auth login`; local files start with ./"
        return Problem(f"no data set {name} on the Hub{at}", field="path", hint=hint)
    if isinstance(error, ConnectionError) or "offline" in text.lower() or "connect" in type(error).__name__.lower():
        hint = "check the network and HF_HUB_OFFLINE, or name local files"
        return Problem(f"{name} is not on this machine and the Hub can't be reached", field="path", hint=hint)
    if "split" in text.lower():
        return Problem(f"{name}: {_short(text)}", field="split")
    if "config" in text.lower():
        return Problem(f"{name}: {_short(text)}", field="name")
    return Problem(f"{name} can't be read: {type(error).__name__}: {_short(text)}", field="path")


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "…"


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """`datasets` without its progress bars: alignkit shows its own."""
    disabled = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()
