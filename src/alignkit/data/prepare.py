"""From the recipe's sources to data sets a causal language model trains on."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from alignkit.data import cache
from alignkit.data.counts import SourceTally, count
from alignkit.data.packing import Composition, pack, unpacked
from alignkit.data.render import Renderer, Renders
from alignkit.data.rows import RowStore
from alignkit.data.sources import Opened, open_sources, quiet_datasets
from alignkit.data.splitting import hold_out, mix
from alignkit.data.store import TokenStore
from alignkit.data.templates import MaskingInfo
from alignkit.data.workers import render_all
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

Say = Callable[[str], None]
ProgressFunction = Callable[[int, int | None], None]  # examples done, of how many (None: not known)


Store = TokenStore | RowStore


@dataclass
class Prepared:
    """Data sets, what was counted on the way, and how long it took.

    Columns of language modelling: `input_ids`, `labels` (-100 where not learned), `length`, `example_id` (a list of
    them where rows are packed) and, for rows packed with boundaries, `seq_lengths`. Other methods' renderers say
    theirs; `length` and `example_id` are always there.
    """

    train: datasets.Dataset | datasets.IterableDataset
    eval: datasets.Dataset | None
    counts: dict[str, Any]
    fingerprint: str
    seconds: float
    cached: bool
    template: MaskingInfo | None  # None where nothing is masked


@dataclass(frozen=True)
class Settings:
    """What the recipe's `training:` and `data:` say about preparing, and with what it is done.

    As it stands, for language modelling. A method with rows of another kind subclasses it: another `renderer`, and
    `RowStore` as its `store`.
    """

    loss_on: str | None
    max_length: int | None
    packing: bool
    eval_packing: bool
    strategy: str
    num_proc: int | None

    @classmethod
    def of(cls, recipe: Recipe) -> Settings:
        assert recipe.data is not None, "a training recipe has data"
        training = recipe.training.resolved()
        packing = bool(training.get("packing"))
        # The trainer has one collator for both: it keeps documents apart only if the training rows are packed.
        eval_packing = packing and training.get("eval_packing") is not False
        length = training.get("max_length")
        strategy = training.get("packing_strategy") or "bfd"
        return cls(recipe.data.loss_on, length, packing, eval_packing, strategy, training.get("dataset_num_proc"))

    def renderer(self, tokenizer: PreTrainedTokenizerBase, packing: bool) -> Renders:
        """Rows that packing cuts to length itself must not lose their ends before."""
        cut_later = packing and self.strategy != "bfd"
        return Renderer(tokenizer, self.loss_on, None if cut_later else self.max_length)

    def store(self, folder: Path, part: str) -> Store:
        """Where rendered examples of a part wait until it is known which of them make a data set."""
        return TokenStore(folder, part)

    def features(self) -> datasets.Features:
        """The columns of rows that are streamed."""
        tokens = datasets.List(datasets.Value("int32"))
        columns = {"input_ids": tokens, "labels": tokens, "length": datasets.Value("int32")}
        if not self.packing:
            return datasets.Features({**columns, "example_id": datasets.Value("string")})
        columns["example_id"] = datasets.List(datasets.Value("string"))
        return datasets.Features(columns if self.strategy == "wrapped" else {**columns, "seq_lengths": tokens})

    def hold_out(self, store: Store, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(train, eval) indices into the store; None where there are no two different rows."""
        return hold_out(store.groups, fraction, seed)


def prepare_language_modeling(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    shapes: tuple[str, ...],
    say: Say,
    progress: ProgressFunction | None = None,
) -> Prepared:
    """Read, render, mask, count and (where asked) pack the recipe's data; the second time, from the cache.

    Args:
        shapes: of examples that the method takes, the best first.
        say: told what is being done, a line at a time.
        progress: called as examples are done; None: a bar on stderr where that is a terminal.

    Raises:
        UserError: data that can't be read or used, or of which nothing is left.
    """
    return prepare(recipe, tokenizer, Settings.of(recipe), shapes, say, progress)


def prepare(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    shapes: tuple[str, ...],
    say: Say,
    progress: ProgressFunction | None = None,
) -> Prepared:
    """The same for rows of any kind: `settings` says how examples are rendered and stored."""
    assert recipe.data is not None
    with quiet_datasets():
        if recipe.data.streaming:
            from alignkit.data.streaming import prepare_streaming

            return prepare_streaming(recipe, tokenizer, settings, shapes, say, progress)
        return prepare_files(recipe, tokenizer, settings, shapes, say, progress, parts=("train", "eval"))


def prepare_files(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    shapes: tuple[str, ...],
    say: Say,
    progress: ProgressFunction | None,
    parts: tuple[str, ...],
) -> Prepared:
    """Prepare `parts` of the data as files. Without "train" among them, `.train` of the result is empty."""
    began = time.perf_counter()
    sources = {part: open_sources(recipe, part) for part in parts}
    key = _fingerprint(recipe, tokenizer, settings, shapes, sources)
    found = cache.find(key)
    if cached := found is not None:
        folder, meta = found
        say("data: prepared before, read from the cache")
    else:
        with cache.new_folder() as (folder, lasting), _bar(progress) as tell, _full_disk(recipe):
            if not lasting:
                say(f"the cache {cache.root()} can't be written: the data is prepared anew at each start")
            build = _Build(recipe, settings, tokenizer, shapes, folder, tell)
            meta = build.run(sources)
            cache.write_meta(folder, meta)
            folder = cache.publish(folder, key) if lasting else folder
    return Prepared(
        train=_read(folder / "train.arrow"),
        eval=_read(folder / "eval.arrow") if (folder / "eval.arrow").exists() else None,
        counts=meta["counts"],
        fingerprint=key,
        seconds=time.perf_counter() - began,
        cached=cached,
        template=_template(meta["template"]),
    )


def _template(stored: dict[str, Any] | None) -> MaskingInfo | None:
    return None if stored is None else MaskingInfo(**{**stored, "notes": tuple(stored["notes"])})


def _read(path: Path) -> datasets.Dataset:
    return datasets.Dataset.from_file(str(path)) if path.exists() else datasets.Dataset.from_dict({})


def _fingerprint(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    shapes: tuple[str, ...],
    sources: dict[str, list[Opened]],
) -> str:
    assert recipe.data is not None
    return cache.fingerprint(
        {
            "code": cache.code_fingerprint(),
            "datasets": datasets.__version__,
            "tokenizer": cache.tokenizer_fingerprint(tokenizer),
            "kind": type(settings).__name__,
            "settings": {key: value for key, value in cache.as_plain(settings).items() if key != "num_proc"},
            "shapes": shapes,
            "seed": recipe.seed,
            "eval_fraction": recipe.data.eval_fraction,
            "split_seed": recipe.data.split_seed,
            "stopping_strategy": recipe.data.stopping_strategy,
            "sources": {
                part: [
                    [
                        one.source.model_dump(),
                        cache.file_hashes(one.files or []),
                        getattr(one.hub, "_fingerprint", None),
                    ]
                    for one in opened
                ]
                for part, opened in sources.items()
            },
        }
    )


@dataclass
class _Build:
    """One preparation: `run` fills the folder and returns what `meta.json` keeps."""

    recipe: Recipe
    settings: Settings
    tokenizer: PreTrainedTokenizerBase
    shapes: tuple[str, ...]
    folder: Path
    tell: ProgressFunction
    done: int = 0
    renderer: Renders = field(init=False)

    def __post_init__(self) -> None:
        self.renderer = self.settings.renderer(self.tokenizer, self.settings.packing)

    def run(self, sources: dict[str, list[Opened]]) -> dict[str, Any]:
        counts: dict[str, Any] = {"train": None, "eval": None}
        assert self.recipe.data is not None
        if train := sources.get("train"):
            store, tallies = self.read("train", train)
            examples: np.ndarray = np.arange(len(store))
            held = None
            if self.recipe.data.eval_fraction is not None:
                examples, held = self.hold_out(store)
            examples = self.mix(store, train, tallies, examples)
            held_out = 0 if held is None else len(held)
            counts["train"] = self.write("train", store, examples, tallies, self.settings.packing, held_out)
            if held is not None:
                counts["eval"] = self.write("eval", store, held, [], self.settings.eval_packing)
            store.remove()
        template = self.renderer.info()
        if evaluation := sources.get("eval"):
            known = set(store.hashes.tolist()) if train else set()
            self.renderer = self.settings.renderer(self.tokenizer, self.settings.eval_packing)
            store, tallies = self.read("eval", evaluation)
            counts["eval"] = self.write("eval", store, np.arange(len(store)), tallies, self.settings.eval_packing)
            counts["eval"]["also_in_train"] = sum(value in known for value in store.hashes.tolist())
            store.remove()
            template = template if train else self.renderer.info()
        return {"counts": counts, "template": None if template is None else cache.as_plain(template)}

    # ------------------------------------------------------------------ reading
    def read(self, part: str, sources: list[Opened]) -> tuple[Store, list[SourceTally]]:
        """All examples of a part's sources, rendered."""
        store: Any = self.settings.store(self.folder, part)
        totals = [one.total for one in sources]
        total = None if None in totals else sum(filter(None, totals))
        tallies = [self.read_one(store, one, total) for one in sources]
        store.close()
        if not len(store):
            raise UserError(nothing_left(self.recipe, f"data.{part}", tallies, self.settings.max_length))
        return store, tallies

    def read_one(self, store: Any, opened: Opened, total: int | None) -> SourceTally:
        layout, items = opened.read(self.shapes)
        tally = SourceTally(opened.name, layout.name, layout.shape, first=len(store))

        def examples() -> Iterator[Example]:
            for item in items:
                tally.saw(item)
                if isinstance(item, Dropped):
                    tally.drop(item)
                else:
                    self.renderer.check(self.recipe, item)
                    yield item

        for results in render_all(self.renderer, examples(), self.settings.num_proc):
            for result in results:
                if isinstance(result, Dropped):
                    tally.drop(result)
                else:
                    store.add(result)
            self.done += len(results)
            self.tell(self.done, total)
        tally.examples = len(store) - tally.first
        return tally

    # ------------------------------------------------------------------ splitting, mixing, writing
    def hold_out(self, store: Store) -> tuple[np.ndarray, np.ndarray]:
        assert self.recipe.data is not None and self.recipe.data.eval_fraction is not None
        seed = self.recipe.seed if self.recipe.data.split_seed is None else self.recipe.data.split_seed
        split = self.settings.hold_out(store, self.recipe.data.eval_fraction, seed)
        if split is None:
            why = "they are all alike, or each has a label of its own"
            message = f"{len(store)} usable rows can't be split into training and eval rows: {why}"
            raise UserError(self.recipe.problem("data.eval_fraction", message, "name eval sources with data.eval"))
        return split

    def mix(self, store: Store, sources: list[Opened], tallies: list[SourceTally], examples: np.ndarray) -> np.ndarray:
        weights = weights_of(sources)
        if weights is None:
            return examples
        assert self.recipe.data is not None
        bounds = [*(tally.first for tally in tallies), len(store)]
        parts = [examples[(examples >= low) & (examples < high)] for low, high in itertools.pairwise(bounds)]
        for opened, part in zip(sources, parts, strict=True):
            if not len(part):
                raise UserError(self.recipe.problem(f"{opened.field}.path", f"no usable row is left of {opened.name}"))
        return mix(parts, weights, self.recipe.data.stopping_strategy, self.recipe.seed)

    def write(
        self,
        part: str,
        store: Store,
        examples: np.ndarray,
        tallies: list[SourceTally],
        packing: bool,
        held_out: int = 0,
    ) -> dict[str, Any]:
        lengths, length = store.lengths[examples], self.settings.max_length
        packed: Composition | None = None
        if packing:
            assert length is not None
            packed = pack(lengths, length, self.settings.strategy, self.recipe.seed)
        store.write(examples, packed or unpacked(lengths), self.folder / f"{part}.arrow", packing)
        return count(store, examples, tallies, packed, length, held_out)


# ---------------------------------------------------------------------- what can be wrong
def weights_of(sources: list[Opened]) -> list[float] | None:
    """The sources' weights; None where they have none."""
    weights = [one.source.weight for one in sources if one.source.weight is not None]
    assert len(weights) in (0, len(sources)), "the recipe's rules want all or none"
    return weights or None


def nothing_left(recipe: Recipe, field_name: str, tallies: list[SourceTally], max_length: int | None) -> Any:
    """The problem of a data set in which no example can be trained on, with the likely fix."""
    dropped = sum((tally.dropped for tally in tallies), tallies[0].dropped.__class__())
    total = dropped.total()
    too_long = sum(number for reason, number in dropped.items() if "within max_length" in reason)
    if too_long == total:
        message = f"every one of {total} examples has its whole answer beyond the first {max_length} tokens"
        return recipe.problem("training.max_length", message, "raise training.max_length")
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common(5))
    hint = "raise training.max_length" if too_long else None
    return recipe.problem(field_name, f"no example is left: all {total} are dropped ({reasons})", hint)


@contextlib.contextmanager
def _full_disk(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        hint = "free some, or set ALIGNKIT_CACHE to a folder on another disk"
        raise UserError(
            recipe.problem("data", f"no space left for the prepared data in {cache.root()}", hint)
        ) from error


@contextlib.contextmanager
def _bar(progress: ProgressFunction | None) -> Iterator[ProgressFunction]:
    """Progress as the caller wants it, or a bar on a terminal, or nothing."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda *_: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("preparing data"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("examples", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
