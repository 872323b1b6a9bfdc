"""How a row of prepared data is shown, by its columns. A method with rows of another kind adds a line to VIEWS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignkit.data.render import IGNORED
from alignkit.data.turns import common_prefix
from alignkit.inspection.tokens import Token, TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A run of tokens under a title (`chosen`, `prompt`); the title is empty where an example has one part.

    `alone`: it stands above the others instead of beside them.
    """

    title: str
    tokens: list[Token]
    alone: bool = False

    @property
    def trained(self) -> int:
        return sum(token.trained for token in self.tokens)


@dataclass(frozen=True)
class Shown:
    """One example as the model will see it.

    Attributes:
        parts: its runs of tokens; several stand side by side.
        columns: what else the row has for the trainer: labels, answers, options of a reward.
        place: where it stands in a packed row; empty elsewhere.
    """

    id: str
    parts: list[Part]
    columns: dict[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True)
class Reader:
    """What a view works with: a tokenizer, and the names of the classes where there are any."""

    tokenizer: PreTrainedTokenizerBase
    texts: TokenTexts

    def tokens(
        self, ids: Sequence[int], trained: Sequence[bool] | None = None, tags: Sequence[str | None] | None = None
    ) -> list[Token]:
        """Tokens from ids, (T,), those learned from and their tags by place."""
        trained = trained or [False] * len(ids)
        tags = tags or [None] * len(ids)
        return [
            Token(number, text, learned, number in self.texts.special, tag)
            for number, text, learned, tag in zip(ids, self.texts.of(ids), trained, tags, strict=True)
        ]


def _documents(row: Row) -> Iterator[tuple[str, list[int], list[int]]]:
    """(id, tokens, labels) of each example of a row; rows packed without boundaries are one."""
    ids, labels, names = row["input_ids"], row["labels"], row["example_id"]
    if isinstance(names, str):
        yield names, ids, labels
    elif row.get("seq_lengths") is None:
        yield f"{names[0]} … {names[-1]}", ids, labels
    else:
        at = 0
        for name, length in zip(names, row["seq_lengths"], strict=True):
            yield name, ids[at : at + length], labels[at : at + length]
            at += length


def language_modeling(row: Row, reader: Reader) -> Iterator[Shown]:
    """Texts and chats: a label is the token itself where it is learned."""
    packed = not isinstance(row["example_id"], str)
    documents = list(_documents(row))
    for number, (name, ids, labels) in enumerate(documents, 1):
        tokens = reader.tokens(ids, [label != IGNORED for label in labels])
        place = f"{number} of {len(documents)} in a packed row of {len(row['input_ids']):,} tokens" if packed else ""
        yield Shown(name, [Part("", tokens)], place=place)


def pairs_of_texts(row: Row, reader: Reader) -> Iterator[Shown]:
    """Two whole texts, for a reward model; marked is where they differ."""
    sides = {"chosen": row["chosen_ids"], "rejected": row["rejected_ids"]}
    shared = common_prefix(*sides.values())
    parts = [Part(name, reader.tokens(ids, [at >= shared for at in range(len(ids))])) for name, ids in sides.items()]
    yield Shown(row["example_id"], parts, {"margin": row["margin"]} if row.get("margin") else {})


def pairs_of_answers(row: Row, reader: Reader) -> Iterator[Shown]:
    """A prompt and two answers to it."""
    sides = [Part(name, reader.tokens(row[f"{name}_ids"], _flags(row[f"{name}_mask"]))) for name in SIDES]
    yield Shown(row["example_id"], [Part("prompt", reader.tokens(row["prompt_ids"]), alone=True), *sides])


def judged_answers(row: Row, reader: Reader) -> Iterator[Shown]:
    """A prompt and one answer, with its verdict."""
    answer = reader.tokens(row["completion_ids"], _flags(row["completion_mask"]))
    parts = [Part("prompt", reader.tokens(row["prompt_ids"]), alone=True), Part("answer", answer, alone=True)]
    yield Shown(row["example_id"], parts, {"verdict": "wanted" if row["label"] else "unwanted"})


def prompts(row: Row, reader: Reader) -> Iterator[Shown]:
    """A prompt for the model to complete, with the columns that rewards read."""
    columns = {name: value for name, value in json.loads(row["row"]).items() if name != "prompt"}
    yield Shown(row["example_id"], [Part("", reader.tokens(row["prompt_ids"]))], columns)


def tagged(row: Row, reader: Reader) -> Iterator[Shown]:
    """Words in pieces; a word's tag stands with its first piece, and the others have none."""
    tags: list[str | None] = [None] * len(row["input_ids"])
    for place, tag in zip(row["firsts"], row["tags"], strict=True):
        tags[place] = tag
    tokens = reader.tokens(row["input_ids"], [tag is not None for tag in tags], tags)
    yield Shown(row["example_id"], [Part("", tokens)], place=f"window {row['window'] + 1}" if row["window"] else "")


def labelled(row: Row, reader: Reader) -> Iterator[Shown]:
    """A text and its label, or labels, or number."""
    yield Shown(row["example_id"], [Part("", reader.tokens(row["input_ids"]))], {"label": json.loads(row["label"])})


def _flags(mask: Sequence[int]) -> list[bool]:
    return [bool(one) for one in mask]


SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class View:
    """One shape of rows: the columns that tell it, and how it is shown.

    `marked` says what the marked tokens are; `in_turns`: whether marked and other tokens stand on lines of their own.
    """

    name: str
    columns: tuple[str, ...]
    show: Callable[[Row, Reader], Iterator[Shown]]
    marked: str = "trained on"
    in_turns: bool = True


VIEWS: tuple[View, ...] = (
    View("pairs of answers", ("prompt_ids", "chosen_ids", "rejected_ids", "chosen_mask"), pairs_of_answers),
    View("pairs of texts", ("chosen_ids", "rejected_ids"), pairs_of_texts, "where the two differ"),
    View("judged answers", ("prompt_ids", "completion_ids", "completion_mask", "label"), judged_answers),
    View("prompts", ("prompt_ids", "row"), prompts),
    View("tagged words", ("input_ids", "firsts", "tags"), tagged, "trained on: a word's first piece", in_turns=False),
    View("labelled texts", ("input_ids", "label"), labelled),
    View("language modelling", ("input_ids", "labels"), language_modeling),
)
"""The first whose columns a row has."""


def view_of(columns: Sequence[str]) -> View:
    """The view of rows with these columns."""
    found = next((view for view in VIEWS if set(view.columns) <= set(columns)), None)
    assert found is not None, f"no view shows rows of {', '.join(columns)}: add one to VIEWS"
    return found


def segments(tokens: Sequence[Token], stop_token: str | None, view: View) -> Iterator[list[Token]]:
    """Tokens cut into what is read as one piece: at each change of what is marked, and behind a turn's end.

    A turn ends with its stop token and the white space that the template writes after it.
    """
    if not view.in_turns:
        yield list(tokens)
        return
    piece: list[Token] = []
    ended = False
    for token in tokens:
        over = ended and not (token.text.isspace() and not token.trained)
        if piece and (over or token.trained != piece[-1].trained):
            yield piece
            piece = []
        ended = token.text == stop_token or (ended and token.text.isspace())
        piece.append(token)
    if piece:
        yield piece
