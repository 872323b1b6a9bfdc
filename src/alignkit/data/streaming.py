"""Data that is read while training: rendered as it comes, in an order that depends on the recipe alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from alignkit.data import cache
from alignkit.data.packing import pack
from alignkit.data.prepare import (
    Prepared,
    ProgressFunction,
    Say,
    Settings,
    prepare_files,
    weights_of,
)
from alignkit.data.render import Rendered, Renders
from alignkit.data.rows import RenderedRow
from alignkit.data.sources import Opened, open_sources
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

CHUNK = 64  # examples rendered together
WINDOW = 1000  # examples packed together


@dataclass
class Stream:
    """One pass over the sources as rows; calling it again gives the same rows again."""

    recipe: Recipe
    settings: Settings
    sources: list[Opened]
    shapes: tuple[str, ...]
    renderer: Renders

    def __call__(self) -> Iterator[dict[str, Any]]:
        rendered = self.rendered()
        first = next(rendered, None)
        if first is None:  # the stream is repeated without end: an empty pass would be repeated without end too
            raise UserError(self.recipe.problem("data.train", "the stream gives no example that can be trained on"))
        rendered = itertools.chain([first], rendered)
        return self.packed(rendered) if self.settings.packing else (item.row() for item in rendered)

    def rendered(self) -> Iterator[Rendered | RenderedRow]:
        examples = self.examples()
        while chunk := list(itertools.islice(examples, CHUNK)):
            yield from (item for item in self.renderer.render(chunk) if not isinstance(item, Dropped))

    def packed(self, rendered: Iterator[Any]) -> Iterator[dict[str, Any]]:
        length = self.settings.max_length
        assert length is not None
        while window := list(itertools.islice(rendered, WINDOW)):
            lengths = np.array([len(item.input_ids) for item in window])
            rows = pack(lengths, length, self.settings.strategy, self.recipe.seed)
            for low, high in zip(rows.bounds, rows.bounds[1:], strict=False):
                yield _packed_row(window, rows.pieces[low:high], rows.boundaries)

    # ------------------------------------------------------------------ several sources
    def examples(self) -> Iterator[Example]:
        weights = weights_of(self.sources)
        if weights is None:
            return itertools.chain.from_iterable(map(self.examples_of, self.sources))
        return self.drawn(np.array(weights) / sum(weights))

    def examples_of(self, opened: Opened) -> Iterator[Example]:
        for item in opened.read(self.shapes)[1]:
            if not isinstance(item, Dropped):
                self.renderer.check(self.recipe, item)
                yield item

    def drawn(self, probabilities: np.ndarray) -> Iterator[Example]:
        """Draws by weight until the first source is used up (or all are, the others starting again)."""
        assert self.recipe.data is not None
        until_all = self.recipe.data.stopping_strategy == "all_exhausted"
        rng = np.random.default_rng(self.recipe.seed)
        iterators = [self.examples_of(one) for one in self.sources]
        exhausted = [False] * len(iterators)
        while True:
            for index in rng.choice(len(iterators), size=1000, p=probabilities).tolist():
                item = next(iterators[index], None)
                if item is None:
                    exhausted[index] = True
                    if not until_all or all(exhausted):
                        return
                    iterators[index] = self.examples_of(self.sources[index])
                    item = next(iterators[index], None)
                if item is not None:
                    yield item


def prepare_streaming(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    shapes: tuple[str, ...],
    say: Say,
    progress: ProgressFunction | None,
) -> Prepared:
    """A training stream without end (`max_steps` ends it), and eval data prepared as files.

    Resuming skips what was seen: the order is the same each time. `counts["train"]` says `streaming`.
    """
    assert recipe.data is not None
    began = time.perf_counter()
    sources = open_sources(recipe, "train", streaming=True)
    renderer = settings.renderer(tokenizer, settings.packing)
    stream = Stream(recipe, settings, sources, shapes, renderer)
    layouts = [one.read(shapes)[0] for one in sources]
    next(stream())  # what is wrong with the data or the template is said now, not at the first step
    held = None
    if recipe.data.eval is not None:
        held = prepare_files(recipe, tokenizer, settings, shapes, say, progress, parts=("eval",))
    train = datasets.IterableDataset.from_generator(stream, features=settings.features()).repeat(None)
    names = [{"path": one.name, "rows": None, "examples": None, "layout": layout.name, "shape": layout.shape}
             for one, layout in zip(sources, layouts, strict=True)]  # fmt: skip
    return Prepared(
        train=train,
        eval=None if held is None else held.eval,
        counts={
            "train": {"streaming": True, "rows": None, "examples": None, "dropped": {}, "sources": names},
            "eval": None if held is None else held.counts["eval"],
        },
        fingerprint=cache.fingerprint(
            {
                "streaming": [one.source.model_dump() for one in sources],
                "files": [cache.file_hashes(one.files or []) for one in sources],
                "tokenizer": cache.tokenizer_fingerprint(tokenizer),
                "settings": cache.as_plain(settings),
                "eval": None if held is None else held.fingerprint,
            }
        ),
        seconds=time.perf_counter() - began,
        cached=False,
        template=renderer.info(),
    )


def _packed_row(window: list[Rendered], pieces: np.ndarray, boundaries: bool) -> dict[str, Any]:
    ids: list[int] = []
    labels: list[int] = []
    for example, start, stop in pieces.tolist():
        ids += window[example].input_ids[start:stop].tolist()
        piece = window[example].labels[start:stop].tolist()
        labels += [-100, *piece[1:]] if boundaries else piece
    row = {"input_ids": ids, "labels": labels, "length": len(ids)}
    row["example_id"] = [window[example].id for example in pieces[:, 0].tolist()]
    if boundaries:
        row["seq_lengths"] = (pieces[:, 2] - pieces[:, 1]).tolist()
    return row
