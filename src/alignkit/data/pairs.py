"""Preference data as token rows: pairs of answers to one prompt, or single answers with a verdict.

Each side is rendered by `Renderer`, exactly as supervised fine-tuning renders a prompt with its completion: the same
template, one BOS, a supervised stop token. What TRL's trainers would make of the texts themselves is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from alignkit.data.prepare import Prepared, Say, Settings, prepare
from alignkit.data.render import IGNORED, Rendered, Renderer
from alignkit.data.rows import RenderedRow, RowStore
from alignkit.data.templates import MaskingInfo
from alignkit.data.turns import common_prefix
from alignkit.examples import Dropped, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

Kind = Literal["whole", "split", "unpaired"]
"""`whole`: two full sequences, for reward models. `split`: the prompt, and two answers with their masks, for DPO.
`unpaired`: a prompt and one answer with its mask and verdict, for KTO."""

_TOKENS, _MASK = pa.list_(pa.int32()), pa.list_(pa.int8())
SCHEMAS: dict[Kind, pa.Schema] = {
    "whole": pa.schema([("chosen_ids", _TOKENS), ("rejected_ids", _TOKENS), ("margin", pa.float32())]),
    "split": pa.schema(
        [
            ("prompt_ids", _TOKENS),
            ("chosen_ids", _TOKENS),
            ("rejected_ids", _TOKENS),
            ("chosen_mask", _MASK),
            ("rejected_mask", _MASK),
        ]
    ),
    "unpaired": pa.schema(
        [("prompt_ids", _TOKENS), ("completion_ids", _TOKENS), ("completion_mask", _MASK), ("label", pa.bool_())]
    ),
}
"""The columns of each kind; every row also has `length` and `example_id`. Masks are 1 where a token is learned."""


class PairRenderer:
    """Turns pairs into rows; can be pickled for worker processes.

    Args:
        max_length: of prompt and answer together; None keeps all.
        keep_end: a pair that is too long loses the start of its prompt, the same on both sides, instead of its end.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, kind: Kind, max_length: int | None = None, keep_end: bool = False
    ) -> None:
        self.side = Renderer(tokenizer, "completion")
        self.kind = kind
        self.max_length = max_length
        self.keep_end = keep_end
        self.closing = None if kind != "whole" else closing_token(tokenizer)

    def check(self, recipe: Recipe, example: Example) -> None:
        """What no example of such a source can get past. Raises UserError."""
        if not all(isinstance(example.data.get(word), str) for word in ("prompt", "chosen", "rejected")):
            self.side.check(recipe, example)

    def info(self) -> MaskingInfo | None:
        return self.side.info()

    # ------------------------------------------------------------------ examples to rows
    def render(self, examples: Sequence[Example]) -> list[RenderedRow | Dropped]:
        """The row of each example, or why it has none; in order."""
        if self.kind == "unpaired":
            examples = [one for example in examples for one in unpaired(example)]
            sides = self.side.render(examples)
            return [self._unpaired(*pair) for pair in zip(examples, sides, strict=True)]
        chosen = self.side.render([side_of(example, "chosen") for example in examples])
        rejected = self.side.render([side_of(example, "rejected") for example in examples])
        return [self._pair(*triple) for triple in zip(examples, chosen, rejected, strict=True)]

    def _pair(
        self, example: Example, chosen: Rendered | Dropped, rejected: Rendered | Dropped
    ) -> RenderedRow | Dropped:
        for side in (chosen, rejected):
            if isinstance(side, Dropped):
                return Dropped(example.id, side.reason, example.row)
        assert isinstance(chosen, Rendered) and isinstance(rejected, Rendered)
        if np.array_equal(chosen.input_ids, rejected.input_ids):
            return Dropped(example.id, "answers are the same tokens", example.row)
        cut = [self.cut(side, chosen, rejected) for side in (chosen, rejected)]
        if np.array_equal(cut[0].input_ids, cut[1].input_ids):
            return Dropped(example.id, f"no difference within max_length {self.max_length}", example.row)
        if any(not (side.labels != IGNORED).any() for side in cut):
            return Dropped(example.id, f"no supervised token within max_length {self.max_length}", example.row)
        return self._whole(example, *cut) if self.kind == "whole" else self._split(example, *cut)

    def cut(self, side: Rendered, *both: Rendered) -> Rendered:
        """One side at `max_length`; of a pair, both sides are to lose the same of their prompt."""
        length = self.max_length
        longest = max(len(one.input_ids) for one in both or (side,))
        if length is None or longest <= length:
            return side
        first = 0
        if self.keep_end:
            first = min(longest - length, *(int(np.argmax(one.labels != IGNORED)) for one in both or (side,)))
        ids, labels = side.input_ids[first : first + length], side.labels[first : first + length]
        truncated = len(ids) < len(side.input_ids)
        if self.closing is not None and len(ids) < len(side.input_ids) - first:
            ids = np.append(ids[:-1], np.int32(self.closing))
        return Rendered(side.id, ids, labels, truncated)

    def _whole(self, example: Example, chosen: Rendered, rejected: Rendered) -> RenderedRow:
        tokens = len(chosen.input_ids) + len(rejected.input_ids)
        columns = {"chosen_ids": chosen.input_ids, "rejected_ids": rejected.input_ids}
        return RenderedRow(
            example.id,
            {**columns, "margin": float(example.data.get("margin", 0.0))},
            length=max(len(chosen.input_ids), len(rejected.input_ids)),
            supervised=tokens,
            truncated=chosen.truncated or rejected.truncated,
            tokens=tokens,
            group=repr(example.data["prompt"]),
        )

    def _split(self, example: Example, chosen: Rendered, rejected: Rendered) -> RenderedRow:
        sides = {"chosen": chosen, "rejected": rejected}
        shared = common_prefix(chosen.input_ids.tolist(), rejected.input_ids.tolist())
        shared = min(shared, *(int(np.argmax(side.labels != IGNORED)) for side in sides.values()))
        columns: dict[str, Any] = {"prompt_ids": chosen.input_ids[:shared]}
        for name, side in sides.items():
            columns[f"{name}_ids"] = side.input_ids[shared:]
            columns[f"{name}_mask"] = (side.labels[shared:] != IGNORED).astype(np.int8)
        return RenderedRow(
            example.id,
            columns,
            length=max(len(side.input_ids) for side in sides.values()),
            supervised=sum(int((side.labels != IGNORED).sum()) for side in sides.values()),
            truncated=any(side.truncated for side in sides.values()),
            tokens=sum(len(columns[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")),
            group=repr(example.data["prompt"]),
        )

    def _unpaired(self, example: Example, side: Rendered | Dropped) -> RenderedRow | Dropped:
        if isinstance(side, Dropped):
            return side
        side = self.cut(side)
        learned = side.labels != IGNORED
        if not learned.any():
            return Dropped(example.id, f"no supervised token within max_length {self.max_length}", example.row)
        first = int(np.argmax(learned))
        columns = {
            "prompt_ids": side.input_ids[:first],
            "completion_ids": side.input_ids[first:],
            "completion_mask": learned[first:].astype(np.int8),
            "label": bool(example.data["label"]),
        }
        return RenderedRow(
            example.id,
            columns,
            length=len(side.input_ids),
            supervised=int(learned.sum()),
            truncated=side.truncated,
            group=repr(example.data["prompt"]),
        )


class WholeTexts:
    """Renders single texts, prompts with answers or chats as a reward model was taught to read them.

    Args:
        max_length: longer ones lose their end, but for an encoder's closing token; None keeps all.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> None:
        self.side = Renderer(tokenizer, "all")
        self.cutter = PairRenderer(tokenizer, "whole", max_length)

    def render(self, examples: Sequence[Example]) -> list[Rendered | Dropped]:
        """The tokens of each example, or why it has none; in order."""
        sides = self.side.render(examples)
        return [side if isinstance(side, Dropped) else self.cutter.cut(side) for side in sides]


def side_of(example: Example, word: str) -> Example:
    """One answer of a pair, as a prompt with its completion."""
    data = {key: value for key, value in example.data.items() if key not in ("chosen", "rejected")}
    return replace(example, data={**data, "completion": example.data[word]})


def unpaired(example: Example) -> list[Example]:
    """The two answers of a pair, each with its verdict; an answer that has one as it is."""
    if "label" in example.data:
        return [example]
    sides = side_of(example, "chosen"), side_of(example, "rejected")
    return [replace(one, data={**one.data, "label": label}) for one, label in zip(sides, (True, False), strict=True)]


def closing_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the tokenizer itself puts after a text (BERT's [SEP]), from which encoders read; a text
    that is cut keeps it."""
    ids = tokenizer("a")["input_ids"]
    return ids[-1] if len(ids) > 1 and ids[-1] in tokenizer.all_special_ids else None


# ---------------------------------------------------------------------- settings
@dataclass(frozen=True)
class PairSettings(Settings):
    """How pairs are prepared."""

    kind: Kind
    keep_end: bool

    @classmethod
    def for_kind(cls, recipe: Recipe, kind: Kind) -> PairSettings:
        keep_end = recipe.training.resolved().get("truncation_mode") == "keep_end"
        return cls(**vars(Settings.of(recipe)), kind=kind, keep_end=keep_end)

    def renderer(self, tokenizer: PreTrainedTokenizerBase, _packing: bool) -> PairRenderer:
        return PairRenderer(tokenizer, self.kind, self.max_length, self.keep_end)

    def store(self, folder: Path, part: str) -> RowStore:
        return RowStore(folder, part, SCHEMAS[self.kind])

    def features(self) -> datasets.Features:
        columns = SCHEMAS[self.kind].append(pa.field("length", pa.int32())).append(pa.field("example_id", pa.string()))
        return datasets.Features.from_arrow_schema(columns)


def prepare_pairs(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, kind: Kind, *, shapes: tuple[str, ...], say: Say
) -> Prepared:
    """Read, render, mask, cut and count the recipe's pairs; the second time, from the cache. Raises UserError."""
    return prepare(recipe, tokenizer, PairSettings.for_kind(recipe, kind), shapes, say)
