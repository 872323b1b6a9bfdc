"""What moves through this package: rows as they were read, and the examples made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

# TRL's dataset types, and the labelled texts and tokens that classifiers take.
SHAPES = ("labelled", "language_modeling", "prompt_completion", "preference", "unpaired_preference", "prompt_only")


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a source. `line` counts from 1 in text files and is None elsewhere; `number` counts rows from 1.

    `origin` is what errors call the file, `name` what ids call it: the same from whatever folder it is read. `nth`
    tells rows apart that stand on one line, as in JSON written without line ends.
    """

    origin: str
    line: int | None
    number: int
    data: dict[str, Any]
    name: str = ""
    nth: int = 1

    @property
    def id(self) -> str:
        """`train.jsonl:17`: the file's name and line, or the row's number where a file has no lines.

        The second row of a line is `train.json:17:2`.
        """
        name = self.name or self.origin.rpartition("/")[2]
        place = f"{name}:{self.number if self.line is None else self.line}"
        return place if self.nth == 1 else f"{place}:{self.nth}"


@dataclass(frozen=True, slots=True)
class Example:
    """One example in TRL's canonical form. `plain` says that the chat in it is one that alignkit made from
    text columns, so that `plain_text` may turn it back for a tokenizer without a chat template; `transcript`, that
    the text was an HH-RLHF transcript."""

    id: str
    data: dict[str, Any]
    row: Row
    plain: bool = False
    transcript: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that is left out, and why ("empty answer"). `row` is where it came from."""

    id: str
    reason: str
    row: Row | None = None


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` may be a slip of, or None when none is close."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`did you mean X?`, or None."""
    close = closest(word, known)
    return f"did you mean {close}?" if close else None
