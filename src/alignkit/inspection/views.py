"""How a row of prepared data is shown, by its columns. A method with rows of another kind adds a line to VIEWS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignkit.data.render import IGNORED
from alignkit.inspection.tokens import Token, TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A run of tokens under a title (`chosen`, `prompt`); the title is empty where an example has one part."""

    title: str
    tokens: list[Token]

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


@dataclass(frozen=True)
class View:
    """One shape of rows: the columns that tell it, and how it is shown."""

    name: str
    columns: tuple[str, ...]
    show: Callable[[Row, Reader], Iterator[Shown]]
    learned: str  # what is trained on, in words: the legend


VIEWS: tuple[View, ...] = (View("language modelling", ("input_ids", "labels"), language_modeling, "trained on"),)
"""The first whose columns a row has."""


def view_of(columns: Sequence[str]) -> View:
    """The view of rows with these columns."""
    found = next((view for view in VIEWS if set(view.columns) <= set(columns)), None)
    assert found is not None, f"no view shows rows of {', '.join(columns)}: add one to VIEWS"
    return found


def segments(tokens: Sequence[Token], stop_token: str | None) -> Iterator[list[Token]]:
    """Tokens cut into what is read as one piece: at each change of what is learned, and behind a turn's end.

    A turn ends with its stop token and the white space that the template writes after it.
    """
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
