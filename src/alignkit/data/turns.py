"""Where the assistant's turns begin and end in a rendered chat, in characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

Message = Mapping[str, Any]
Span = tuple[int, int]  # characters [start, end) of a rendered chat

# A character of the private use area: no data holds it, so a render that differs only by it differs exactly there.
PROBE = "\ue00f"
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


class CannotRender(Exception):
    """One example can't become tokens; the text is the reason under which it is counted as dropped."""


@dataclass(frozen=True)
class Stops:
    """The added tokens that end an assistant turn, as text.

    Attributes:
        added: every token outside the plain vocabulary, longest first.
        middle: what ends a turn that another follows; None: nothing does.
        final: what ends the last turn; None: nothing does, and EOS has to be appended.
    """

    added: tuple[str, ...]
    middle: str | None
    final: str | None

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        others = "|".join(map(re.escape, self.added))
        return [re.compile(rf"{re.escape(stop)}(?=(?:\s|{others})*\Z)") for stop in self._known]

    @cached_property
    def _known(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stop for stop in (self.middle, self.final) if stop))

    @property
    def token(self) -> str | None:
        """The token that generation has to stop on: the last of those that end an answer."""
        if self.final is None:
            return None
        return next(token for token in self.added if self.final.endswith(token))

    def end_in(self, region: str, exact: bool) -> int | None:
        """Where the stop token in `region` ends; `exact`: only whitespace and added tokens may follow it."""
        if exact:
            matches = (pattern.search(region) for pattern in self._patterns)
            return next((match.end() for match in matches if match), None)
        return next((region.rfind(stop) + len(stop) for stop in self._known if stop in region), None)

    def settle(self, text: str, start: int, end: int) -> int:
        """A marked span's end: just after its stop token, whether the marks held that, more, or less."""
        if (found := self.end_in(text[start:end], exact=True)) is not None:
            return start + found
        rest = text[end:]
        stripped = rest.lstrip()
        if self.middle is not None and stripped.startswith(self.middle):
            return end + len(rest) - len(stripped) + len(self.middle)
        return end


@dataclass(frozen=True)
class Turns:
    """The turns of one chat, found by rendering parts of it and comparing.

    Args:
        render: messages (and `generation_prompt=`) to text, with this chat's tools and other variables.
        text: the whole chat, rendered.
    """

    render: Callable[..., str]
    messages: Sequence[Message]
    text: str
    stops: Stops

    def spans(self, indices: Sequence[int]) -> list[Span]:
        """The spans of the messages at `indices`. Raises CannotRender where one can't be found."""
        spans = []
        for index in indices:
            start = self.start(index)
            end = self.end(index, start)
            if not start < end:
                raise CannotRender("the chat template does not show where an assistant turn begins and ends")
            spans.append((start, end))
        return spans

    def start(self, index: int) -> int:
        """Where the generation prompt before message `index` ends."""
        before, message, after = self.messages[:index], self.messages[index], self.messages[index + 1 :]
        try:
            prompt = self.render(before, generation_prompt=True)
        except TEMPLATE_ERRORS:  # no messages, or a chat that this template does not let end here
            prompt = PROBE
        if self.text.startswith(prompt):
            return len(prompt)
        # The prompt holds what the history does not (an open <think>), or the other way round (a system text moved to
        # the last user turn): the turn begins where the text changes when its content does.
        altered = self.render([*before, _with_probe(message), *after])
        if PROBE not in altered:
            raise CannotRender("the chat template leaves an assistant turn out")
        return common_prefix(self.text, altered)

    def end(self, index: int, start: int) -> int:
        """Where message `index`, which begins at `start`, ends, its stop token included."""
        limit, exact = len(self.text), True
        if index < len(self.messages) - 1:
            until = self.messages[: index + 1]
            through = self.render(until)
            if self.text.startswith(through):
                limit = len(through)
            else:  # the turn is written differently where it is the last one: look up to the next message's content
                following = self.render([*until, _with_probe(self.messages[index + 1])])
                limit, exact = common_prefix(self.text, following), False
        region = self.text[start:limit]
        if (found := self.stops.end_in(region, exact)) is not None:
            return start + found
        if not exact:
            raise CannotRender("the chat template does not show where an assistant turn ends")
        stripped = region.rstrip()
        other = any(stripped.endswith(token) for token in self.stops.added)  # such as <|eom_id|> after a tool call
        return start + len(stripped) if other or self.stops.middle is not None else limit


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items (characters, tokens) two sequences share from the start."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _with_probe(message: Message) -> dict[str, Any]:
    parts = isinstance(message.get("content"), list)
    return {**message, "content": [{"type": "text", "text": PROBE}] if parts else PROBE}
