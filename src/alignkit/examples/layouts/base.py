"""What a layout is: the columns it is known by, and how a row of it becomes examples of a shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignkit.errors import Problem, UserError
from alignkit.examples.messages import (
    BadRow,
    Message,
    Skip,
    as_list,
    check_turns,
    is_messages,
    is_transcript,
    kind_of,
    read_messages,
)
from alignkit.examples.types import Dropped, Example, Row

Data = dict[str, Any]
Build = Callable[[Data], Sequence[Data | Skip]]
CARRIED = ("tools", "chat_template_kwargs")
TRANSCRIBED = ("preference", "prompt_only")  # shapes whose transcripts can be written back as text


@dataclass(frozen=True)
class Layout:
    """A way in which people lay out data. `required` and `optional` are our words for its columns.

    `rank` orders the layouts that fit the same columns: 0 the canonical forms, 1 the well-known layouts, 2 a bare
    text, which many data sets carry besides. `when` looks at a sample's values where columns alone do not tell.
    `plain`: its chats are made from text columns and may be turned back into text (`plain_text`).
    """

    name: str
    shape: str
    description: str
    required: tuple[str, ...]
    build: Build
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # a required word: names it also goes by
    rank: int = 1
    plain: bool = False
    when: Callable[[Data], bool] = lambda _: True
    rename: Mapping[str, str] = field(default_factory=dict)  # our word: theirs, of the source at hand

    def fit(self, sample: Data) -> dict[str, str] | None:
        """The aliases under which a sample (our words -> the first value seen) has this layout's columns, {} where
        it has the words themselves; None where it has not all of them."""
        found: dict[str, str] = {}
        for word in self.required:
            if word not in sample:
                alias = next((alias for alias in self.aliases.get(word, ()) if alias in sample), None)
                if alias is None:
                    return None
                found[word] = alias
        return found if self.when(renamed(sample, found)) else None

    def bound(self, columns: Mapping[str, str], aliases: Mapping[str, str]) -> Layout:
        """This layout for a source that maps `columns`, where `aliases` stand for some words."""
        known_as = {word: columns.get(alias, alias) for word, alias in aliases.items()}
        kept = {ours: theirs for ours, theirs in columns.items() if ours not in aliases.values()}
        return replace(self, rename={**kept, **known_as})

    def uses(self, word: str) -> bool:
        """Whether a column under this (our) word would be read."""
        others = (alias for aliases in self.aliases.values() for alias in aliases)
        return self.shape == "prompt_only" or word in (*self.required, *self.optional, *others, *CARRIED)

    def convert(self, row: Row) -> Iterator[Example | Dropped]:
        """The examples of one row: usually one; several where a row holds several. Raises UserError (file, line)."""
        try:
            data = renamed(row.data, self.rename)
            words = self.required or self.optional
            if not any(word in data for word in words):
                have = ", ".join(map(str, data)) or "none"
                raise BadRow(f"a row without {' or '.join(words)}, unlike those before it; its columns: {have}")
            made = self.build(data)
        except Skip as skip:
            yield Dropped(row.id, skip.reason, row)
            return
        except BadRow as bad:
            raise self._problem(row, bad) from None
        transcript = self.shape in TRANSCRIBED and any(is_transcript(data.get(word)) for word in self.required)
        for number, item in enumerate(made):
            name = row.id if len(made) == 1 else f"{row.id}.{number}"
            if isinstance(item, Skip):
                yield Dropped(name, item.reason, row)
            else:
                yield Example(name, item, row, self.plain or transcript, transcript)

    def _problem(self, row: Row, bad: BadRow) -> UserError:
        column = self.rename.get(bad.column, bad.column) if bad.column else None
        message = str(bad) if row.line is not None else f"row {row.number}: {bad}"
        return UserError(Problem(message, file=row.origin, line=row.line, field=column, hint=bad.hint))


def renamed(data: Data, rename: Mapping[str, str]) -> Data:
    """A row under our words: {our word: their column}; a mapped column hides one that already has our word."""
    if not rename:
        return data
    theirs = set(rename.values())
    kept = {column: value for column, value in data.items() if column not in theirs and column not in rename}
    return kept | {ours: data[column] for ours, column in rename.items() if column in data}


def text_in(data: Data, word: str, empty: str) -> str:
    """A text column that must say something: Skip(empty) when it is absent, null or blank, BadRow when no text."""
    value = data.get(word)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN: pandas' nothing
        raise Skip(empty)
    if not isinstance(value, str):
        hint = "put it in quotes" if isinstance(value, int | float) else None
        raise BadRow(f"must be text, not {kind_of(value)}", word, hint)
    return value


def optional_text(data: Data, word: str) -> str:
    """A text column that may be absent, null or blank ("" then)."""
    try:
        return text_in(data, word, "")
    except Skip:
        return ""


def carried(data: Data) -> Data:
    """`tools` (a list, also as JSON text) and `chat_template_kwargs` (an object, also as JSON text), where given."""
    found: Data = {}
    if data.get("tools"):
        tools = as_list(data["tools"], "tools")
        if tools:
            found["tools"] = tools
    kwargs = data.get("chat_template_kwargs")
    if kwargs:
        if isinstance(kwargs, str):
            try:
                kwargs = json.loads(kwargs)
            except ValueError:
                raise BadRow("not valid JSON", "chat_template_kwargs") from None
        if not isinstance(kwargs, dict):
            raise BadRow(f"must be an object, not {kind_of(kwargs)}", "chat_template_kwargs")
        found["chat_template_kwargs"] = kwargs
    return found


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def opening(data: Data) -> list[Message]:
    """The turns before the question: `system` or `system_prompt`, then `history`, a list of [question, answer]."""
    system = optional_text(data, "system") or optional_text(data, "system_prompt")
    messages = [{"role": "system", "content": system}] if system else []
    for turn in as_list(data.get("history") or [], "history"):
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(said, str) for said in turn)):
            raise BadRow("must be a list of [question, answer] pairs of texts", "history")
        messages += [user(turn[0]), assistant(turn[1])]
    return messages


OPENING = ("system", "system_prompt", "history")


def chat_in(data: Data, word: str, empty: str, role: str) -> str | list[Message]:
    """A column of text or messages. A text stays a text; `role` is whose it is when it must become a message."""
    if is_messages(data.get(word)) or isinstance(data.get(word), dict):
        messages = read_messages(data[word], word, sharegpt=True)
        if role == "assistant" and not any(message["role"] == "assistant" for message in messages):
            raise BadRow("has no turn of the assistant", word)
        return check_turns(messages)
    if isinstance(data.get(word), list) and not data[word]:
        raise Skip(empty)
    return text_in(data, word, empty)


def as_messages(value: str | list[Message], role: str) -> list[Message]:
    """Messages as they are; a text as one message of `role`."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def instruction_in(data: Data, word: str = "instruction", extra: str = "input") -> str:
    """An instruction, and after an empty line its input where there is one (Alpaca's two columns as one request)."""
    said = text_in(data, word, "empty prompt")
    given = optional_text(data, extra)
    return f"{said}\n\n{given}" if given else said
