"""Rows for classifiers: a text with its label, or the first pieces of words with their tags."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa

from alignkit.data.prepare import Settings, Store
from alignkit.data.rows import RenderedRow, RowStore
from alignkit.data.splitting import hold_out_by_stratum
from alignkit.data.windows import cut
from alignkit.errors import Problem, UserError
from alignkit.examples import Dropped, Example
from alignkit.examples.labels import decode, encode, fault, name_of, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.recipe import Recipe

NUMBERS = 10  # strata of a numeric target: tenths of its rows


@dataclass(frozen=True)
class LabelledSettings(Settings):
    """How texts or tokens are cut and their labels read."""

    task: str = "sequence"
    stride: int = 0
    names: tuple[str, ...] = ()
    scheme: str | None = None

    def renderer(self, tokenizer: PreTrainedTokenizerBase, packing: bool) -> LabelledRenderer:  # noqa: ARG002
        return LabelledRenderer(tokenizer, self)

    def store(self, folder: Path, part: str) -> Store:
        return LabelledStore(folder, part, self.task)

    def features(self) -> datasets.Features:
        raise NotImplementedError("a stream's labels are not known beforehand")

    def hold_out(self, store: Any, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The share of each label, or set of labels; the windows of a text, and equal texts, on one side."""
        return hold_out_by_stratum(store.groups, store.strata(), fraction, seed)


class LabelledRenderer:
    """Turns labelled examples into rows; can be pickled for worker processes.

    Columns: `input_ids`; `label`, as text (`examples.labels.encode`); or, of tokens, `firsts` (places of the words'
    first pieces) and `tags`, both (W,), and `window`, the number of the window in its sentence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: LabelledSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings

    def info(self) -> None:
        """Nothing is masked."""

    def check(self, recipe: Recipe, example: Example) -> None:
        """Texts for `task: sequence`, tokens for `task: token`, and a tokenizer that can do it. Raises UserError."""
        words = "tokens" in example.data
        if words != (self.settings.task == "token"):
            have, want = ("tokens and tags", "token") if words else ("texts and labels", "sequence")
            message = f"{self.settings.task}, but {example.row.origin} has {have}"
            raise UserError(recipe.problem("task", message, f"say task: {want}, or name the columns"))
        if not self.tokenizer.is_fast and (words or self.settings.stride):
            what = "tags" if words else "training.stride"
            message = f"{what} needs a tokenizer that knows where its tokens stand, and this model has only a slow one"
            raise UserError(recipe.problem("model", message, "take a model with a tokenizer.json"))

    def render(self, examples: Sequence[Example]) -> list[RenderedRow | Dropped]:
        """The rows of each example, in order: one, or one a window."""
        words = self.settings.task == "token"
        labels = [self._tags(one) if words else self._label(one) for one in examples]
        items = [one.data["tokens"] if words else one.data["text"] for one in examples]
        rows: list[RenderedRow | Dropped] = []
        for example, label, one in zip(
            examples, labels, cut(self.tokenizer, items, self.settings.max_length, self.settings.stride), strict=True
        ):
            if words and not example.data["tokens"]:
                rows.append(Dropped(example.id, "no tokens", example.row))
                continue
            text = hashlib.blake2b(b"\0".join(window.input_ids.tobytes() for window in one.windows)).hexdigest()
            for number, window in enumerate(one.windows):
                columns: dict[str, Any] = {"input_ids": window.input_ids}
                if words:
                    columns |= {"firsts": window.firsts, "tags": [label[word] for word in window.words.tolist()]}
                    columns["window"] = number
                else:
                    columns["label"] = label
                learned = len(window.words) if words else len(window.input_ids)
                length = len(window.input_ids)
                rows.append(RenderedRow(example.id, columns, length, learned, one.truncated, group=text))
        return rows

    def _label(self, example: Example) -> str:
        return encode(named(example.data["label"], self.settings.names))

    def _tags(self, example: Example) -> list[str]:
        tags = [name_of(named(tag, self.settings.names)) for tag in example.data["tags"]]
        scheme = self.settings.scheme
        if scheme is not None and (reason := fault(tags, scheme)):
            row = example.row
            message = reason if row.line is not None else f"row {row.number}: {reason}"
            hint = f"mend the tags, or leave labels.scheme ({scheme}) out"
            raise UserError(Problem(message, row.origin, row.line, "tags", hint))
        return tags


class LabelledStore(RowStore):
    """Rows of texts or tokens; in memory also their labels."""

    def __init__(self, folder: Path, name: str, task: str) -> None:
        ids = pa.field("input_ids", pa.list_(pa.int32()))
        fields = [ids, pa.field("label", pa.string())]
        if task == "token":
            words = [pa.field("firsts", pa.list_(pa.int32())), pa.field("tags", pa.list_(pa.string()))]
            fields = [ids, *words, pa.field("window", pa.int32())]
        super().__init__(folder, name, pa.schema(fields))
        self._labels: list[str] = []

    def add(self, row: RenderedRow) -> None:
        super().add(row)
        label = row.columns.get("label")
        self._labels.append(label if label is not None else _kinds(row.columns["tags"]))

    def strata(self) -> np.ndarray:
        """What the split keeps in proportion, (N,) numbers: labels, sets of labels, or tenths of a numeric target."""
        values = [decode(label) for label in self._labels]
        if any(isinstance(value, float) for value in values):
            edges = np.quantile([float(value) for value in values], np.linspace(0, 1, NUMBERS + 1)[1:-1])
            return np.asarray(np.searchsorted(edges, [float(value) for value in values]))
        seen: dict[str, int] = {}
        return np.array([seen.setdefault(label, len(seen)) for label in self._labels])


def _kinds(tags: Sequence[str]) -> str:
    """The types of entities in a sentence: what a split of tagged data keeps in proportion."""
    return encode(sorted({tag.partition("-")[2] for tag in tags if tag != "O"}))


def count_labels(rows: Any) -> Counter[str]:
    """How often each label, name or tag stands in prepared rows; a window counts as a row. Numbers are not counted."""
    counts: Counter[str] = Counter()
    if "tags" in rows.column_names:
        for batch in rows.with_format("arrow").iter(10_000):
            values = pa.compute.value_counts(pa.compute.list_flatten(batch["tags"]))
            counts.update({one["values"]: one["counts"] for one in values.to_pylist()})
        return counts
    for text, number in Counter(rows["label"]).items():
        value = decode(text)
        for name in value if isinstance(value, list) else [value]:
            counts[name_of(name)] += number
    return counts
