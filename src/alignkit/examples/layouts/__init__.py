"""The layouts that data comes in, and how a source's is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignkit.errors import Problem, UserError
from alignkit.examples.layouts import labelled, preference, prompts, supervised
from alignkit.examples.layouts.base import CARRIED, Data, Layout, renamed
from alignkit.examples.messages import MARKS, Message, join_transcript
from alignkit.examples.types import Row, did_you_mean

if TYPE_CHECKING:
    from alignkit.recipe.sections import Source

LAYOUTS: tuple[Layout, ...] = (*supervised.LAYOUTS, *preference.LAYOUTS, *prompts.LAYOUTS, *labelled.LAYOUTS)
BY_NAME = {layout.name: layout for layout in LAYOUTS}
assert len(BY_NAME) == len(LAYOUTS), "layouts have different names"
# How an error names what each shape wants.
WANTED = {
    "labelled": "text + label, or tokens + tags",
    "language_modeling": "messages, or text",
    "prompt_completion": "prompt + completion",
    "preference": "prompt + chosen + rejected",
    "unpaired_preference": "prompt + completion + label (true or false)",
    "prompt_only": "prompt",
}
EXAMPLE = {
    "labelled": "{text: …, label: …}",
    "language_modeling": "{text: …}",
    "prompt_completion": "{prompt: …, completion: …}",
    "preference": "{prompt: …, chosen: …, rejected: …}",
    "unpaired_preference": "{prompt: …, completion: …, label: …}",
    "prompt_only": "{prompt: …}",
}


def recognise(rows: Sequence[Row], source: Source, shapes: Sequence[str]) -> Layout:
    """The layout of a source, from its first rows: the one it names, or the best that fits its columns.

    `shapes` are those the method takes, the best first. Raises UserError at the source's `columns` or `layout`, or
    naming the columns found, the shapes known and how to map them.
    """
    assert rows, "an empty source has been refused"
    columns: Data = {}
    for row in rows:
        for column, value in row.data.items():
            if columns.get(column) is None:
                columns[column] = value
    _check_columns(source, columns)
    sample = renamed(columns, source.columns)
    if source.layout is not None:
        found = _forced(source, sample, columns, shapes)
    else:
        fitting = [layout for layout in LAYOUTS if layout.shape in shapes and layout.fit(sample) is not None]
        using = [layout for layout in fitting if all(layout.uses(word) for word in source.columns)]
        if not fitting:
            raise UserError(_unknown(rows[0].origin, sample, columns, source, shapes))
        if not using:
            raise UserError(_unused(fitting[0], source))
        found = min(using, key=lambda layout: (layout.rank, shapes.index(layout.shape)))
    return found.bound(source.columns, found.fit(sample) or {})


def _check_columns(source: Source, columns: Data) -> None:
    for ours, theirs in source.columns.items():
        if theirs not in columns:
            message = f"no column {theirs}; columns found: {', '.join(columns)}"
            raise UserError(Problem(message, field=f"columns.{ours}", hint=did_you_mean(theirs, columns)))


def _forced(source: Source, sample: Data, columns: Data, shapes: Sequence[str]) -> Layout:
    name = str(source.layout)
    layout = BY_NAME.get(name)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS if layout.shape in shapes)
        hint = did_you_mean(name, BY_NAME)
        raise UserError(Problem(f"no layout {name}; known here: {known}", field="layout", hint=hint))
    if layout.shape not in shapes:
        message = f"{name} gives {layout.shape} data, but this needs {' or '.join(shapes)}"
        raise UserError(Problem(message, field="layout"))
    missing = [word for word in layout.required if word not in sample]
    if layout.fit(sample) is None and (missing or not layout.required):
        needs = ", ".join(layout.required) or layout.description.partition(":")[0].replace("`", "")
        message = f"{name} needs {needs}; columns found: {', '.join(columns)}"
        hint = "map them: columns: {" + ", ".join(f"{word}: …" for word in missing) + "}"
        raise UserError(Problem(message, field="layout", hint=hint if missing else None))
    unused = [word for word in source.columns if not layout.uses(word)]
    if unused:
        raise UserError(_unused(layout, source))
    return layout


def _unused(layout: Layout, source: Source) -> Problem:
    word = next((word for word in source.columns if not layout.uses(word)), next(iter(source.columns)))
    takes = ", ".join((*layout.required, *layout.optional, *CARRIED))
    hint = did_you_mean(word, (*layout.required, *layout.optional))
    return Problem(f"the layout {layout.name} takes no {word}; it takes {takes}", field=f"columns.{word}", hint=hint)


def _unknown(origin: str, sample: Data, columns: Data, source: Source, shapes: Sequence[str]) -> Problem:
    wanted = "; ".join(f"{shape} ({WANTED[shape]})" for shape in shapes)
    message = f"columns {', '.join(columns)} of {origin} fit no shape that this takes: {wanted}"
    others = (
        layout
        for layout in LAYOUTS
        if layout.shape not in shapes and layout.rank < 2 and layout.fit(sample) is not None
    )
    other = next(others, None)
    words = {word for layout in LAYOUTS if layout.shape in shapes and layout.rank == 0 for word in layout.required}
    close = {word: column for word in words - set(sample) for column in columns if did_you_mean(word, [column])}
    if close:
        hint = "name them: columns: {" + ", ".join(f"{word}: {close[word]}" for word in sorted(close)) + "}"
    else:
        hint = f"name them: columns: {EXAMPLE[shapes[0]]}"
    if other is not None:
        message += f" (they are {other.shape} data, layout {other.name})"
    return Problem(message, field="columns" if source.columns else "path", hint=hint)


def plain_text(data: dict[str, Any], transcript: bool = False) -> dict[str, Any]:
    """An example whose `plain` is set, for a tokenizer without a chat template: its turns as texts, an empty line
    between them and after the prompt. `{"prompt": "What is 1+1?\\n\\n", "completion": "2"}`.

    A transcript is written as it was: the prompt ends with "\\n\\nAssistant:", and prompt and answer joined give the
    text back.
    """
    return {key: _as_text(key, value, transcript) for key, value in data.items()}


def _as_text(key: str, value: Any, transcript: bool) -> Any:
    if key not in ("prompt", "completion", "chosen", "rejected") or not isinstance(value, list):
        return value
    messages: list[Message] = value
    if transcript:
        opening = MARKS["assistant"].rstrip()
        text = join_transcript(messages)
        return text + opening if key == "prompt" else text.removeprefix(opening)
    text = "\n\n".join(message["content"] for message in messages)
    return text + "\n\n" if key == "prompt" else text


__all__ = ["BY_NAME", "LAYOUTS", "Layout", "plain_text", "recognise"]
