"""Chats as text, with the characters the assistant has to write marked.

How the marks are found is decided once for a tokenizer, by rendering a probe chat:

- `markers`: the template has `{% generation %}` blocks;
- `training_template`: TRL knows a variant of the template that has them, and renders the same text;
- `prefix`: the chat is rendered turn by turn. A turn begins where its prompt (the messages before it, with the
  generation prompt) ends, and ends with its stop token.

A turn's stop token (`<|im_end|>`, `<|eot_id|>`, `</s>` …) belongs to it; what the template writes after it does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from alignkit.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
Kwargs = Mapping[str, Any] | None
Span = tuple[int, int]  # characters [start, end) of a rendered chat
How = Literal["markers", "training_template", "prefix", "none"]

# A character of the private use area: no data holds it, so a render that differs only by it differs exactly there.
PROBE = "\ue00f"
_USER, _ANSWER, _USER_2, _ANSWER_2 = "31415", "27182", "16180", "14142"
_PROBE_CHAT: tuple[Message, ...] = (
    {"role": "user", "content": _USER},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _USER_2},
    {"role": "assistant", "content": _ANSWER_2},
)
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


class CannotRender(Exception):
    """One example can't become tokens; the text is the reason under which it is counted as dropped."""


@dataclass(frozen=True)
class MaskingInfo:
    """What was decided about a tokenizer's chats; goes to the manifest.

    Attributes:
        how: how the assistant's turns are found; `none` where the data has no chats.
        stop_token: the token that ends each supervised turn or text: generation has to stop on it.
        bos: who writes the first token: the chat template, the tokenizer (plain text), or nobody.
        template_fingerprint: of the chat template's text; None without chats.
        notes: what a user should know.
    """

    how: How
    stop_token: str | None
    bos: Literal["template", "tokenizer", "none"]
    template_fingerprint: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A rendered chat: its text, the supervised spans, and whether EOS has to follow (the template writes no stop)."""

    text: str
    spans: list[Span]
    append_eos: bool


class ChatTemplate:
    """One tokenizer's chat template, and how its assistant turns are found.

    Args:
        loss_on: with `all` no turn has to be found; with `completion` only the last one.

    Raises:
        UserError: the template can't render a plain chat, or its assistant turns can't be told from the rest.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str = "assistant") -> None:
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.notes: list[str] = []
        self._added = _added_tokens(tokenizer)
        self._variables = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
        self._training_template: str | None = None
        self.stop, self.final_stop = self._find_stops()
        self._stops = tuple(dict.fromkeys(stop for stop in (self.stop, self.final_stop) if stop))
        others = "|".join(map(re.escape, self._added))
        self._ends = [re.compile(rf"{re.escape(stop)}(?=(?:\s|{others})*\Z)") for stop in self._stops]
        self.how: How = self._decide()
        self._take_notes()

    # ------------------------------------------------------------------ text
    def text(
        self,
        messages: Sequence[Message],
        tools: Any = None,
        kwargs: Kwargs = None,
        *,
        generation_prompt: bool = False,
    ) -> str:
        """The chat as the template writes it: what `tokenizer.apply_chat_template(tokenize=False)` gives."""
        template = self.tokenizer.get_chat_template(None, tools)
        return self._render(template, messages, tools, kwargs, generation_prompt=generation_prompt)[0]

    def _render(
        self,
        template: str,
        messages: Sequence[Message],
        tools: Any = None,
        kwargs: Kwargs = None,
        *,
        generation_prompt: bool = False,
        marks: bool = False,
    ) -> tuple[str, list[Span]]:
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        texts, spans = render_jinja_template(
            **{
                **self._variables,
                **(kwargs or {}),
                "conversations": [given],
                "tools": tools or None,
                "chat_template": template,
                "add_generation_prompt": generation_prompt,
                "return_assistant_tokens_mask": marks,
            }
        )
        return texts[0], [tuple(span) for span in spans[0]] if marks else []

    # ------------------------------------------------------------------ text and spans
    def render(
        self,
        messages: Sequence[Message],
        *,
        first: int = 0,
        tools: Any = None,
        kwargs: Kwargs = None,
        whole: bool = False,
    ) -> Chat:
        """Render a chat and find its supervised characters.

        Args:
            first: assistant turns before this message are not supervised.
            whole: supervise everything (`loss_on: all`).

        Raises:
            CannotRender: the template refuses the chat, or one of its turns can't be found.
        """
        try:
            text = self.text(messages, tools, kwargs)
            append_eos = self.final_stop is None and messages[-1]["role"] == "assistant"
            if whole:
                return Chat(text, [(0, len(text))], append_eos)
            turns = [
                index for index, message in enumerate(messages) if message["role"] == "assistant" and index >= first
            ]
            if not turns:
                raise CannotRender("no assistant turn")
            spans = self._marked_spans(text, messages, turns, tools, kwargs)
            return Chat(text, spans or self._prefix_spans(text, messages, turns, tools, kwargs), append_eos)
        except _TEMPLATE_ERRORS as error:
            raise CannotRender(f"the chat template refuses it: {_one_line(error)}") from error

    def _marked_spans(
        self, text: str, messages: Sequence[Message], turns: list[int], tools: Any, kwargs: Kwargs
    ) -> list[Span]:
        """Spans from `{% generation %}` blocks; none where the way chosen has none for this chat."""
        if self.how not in ("markers", "training_template"):
            return []
        template = self._training_template or self.tokenizer.get_chat_template(None, tools)
        if self._training_template is not None or _has_markers(template):
            rendered, spans = self._render(template, messages, tools, kwargs, marks=True)
            if rendered != text:  # TRL's variant departs from the original on this chat
                return []
            earlier = any(message["role"] == "assistant" for message in messages[: turns[0]])
            since = self._turn_start(text, messages, turns[0], tools, kwargs) if earlier else 0
            ends = [(start, self._settle_end(text, start, end)) for start, end in spans if end > max(start, since)]
            if ends and self.final_stop is None and turns[-1] == len(messages) - 1:
                ends[-1] = (ends[-1][0], len(text))  # EOS follows the text's end: what lies between is learned too
            return ends
        return []

    def _settle_end(self, text: str, start: int, end: int) -> int:
        """A marked span's end: just after its stop token, whether the block held that, more, or less."""
        if (found := self._last_stop(text[start:end], exact=True)) is not None:
            return start + found
        if self.stop is not None:
            rest = text[end:]
            stripped = rest.lstrip()
            if stripped.startswith(self.stop):
                return end + len(rest) - len(stripped) + len(self.stop)
        return end

    def _prefix_spans(
        self, text: str, messages: Sequence[Message], turns: list[int], tools: Any, kwargs: Kwargs
    ) -> list[Span]:
        spans = []
        for index in turns:
            start = self._turn_start(text, messages, index, tools, kwargs)
            end = self._turn_end(text, messages, index, start, tools, kwargs)
            if not start < end:
                raise CannotRender("the chat template does not show where an assistant turn begins and ends")
            spans.append((start, end))
        return spans

    def _turn_start(self, text: str, messages: Sequence[Message], index: int, tools: Any, kwargs: Kwargs) -> int:
        """Where the generation prompt before message `index` ends, in characters."""
        try:
            prompt = self.text(messages[:index], tools, kwargs, generation_prompt=True)
        except _TEMPLATE_ERRORS:  # no messages, or a chat that this template does not let end here
            prompt = PROBE
        if text.startswith(prompt):
            return len(prompt)
        # The prompt holds what the history does not (an open <think>), or the other way round (a system text moved to
        # the last user turn): the turn begins where the text changes when its content does.
        altered = self.text([*messages[:index], _with_probe(messages[index]), *messages[index + 1 :]], tools, kwargs)
        if PROBE not in altered:
            raise CannotRender("the chat template leaves an assistant turn out")
        return common_prefix(text, altered)

    def _turn_end(
        self,
        text: str,
        messages: Sequence[Message],
        index: int,
        start: int,
        tools: Any,
        kwargs: Mapping[str, Any] | None,
    ) -> int:
        """Where message `index` ends, its stop token included, in characters."""
        limit, exact = len(text), True
        if index < len(messages) - 1:
            through = self.text(messages[: index + 1], tools, kwargs)
            if text.startswith(through):
                limit = len(through)
            else:  # the turn is written differently where it is the last one: look up to the next message's content
                following = self.text([*messages[: index + 1], _with_probe(messages[index + 1])], tools, kwargs)
                limit, exact = common_prefix(text, following), False
        region = text[start:limit]
        if (found := self._last_stop(region, exact)) is not None:
            return start + found
        if not exact:
            raise CannotRender("the chat template does not show where an assistant turn ends")
        stripped = region.rstrip()
        if any(stripped.endswith(token) for token in self._added):  # another stop, such as <|eom_id|> after a tool call
            return start + len(stripped)
        return limit if self.stop is None else start + len(stripped)

    def _last_stop(self, region: str, exact: bool) -> int | None:
        """The end of the stop token in `region`; `exact`: only whitespace and added tokens may follow it."""
        if exact:
            matches = (pattern.search(region) for pattern in self._ends)
            return next((match.end() for match in matches if match), None)
        return next((region.rfind(stop) + len(stop) for stop in self._stops if stop in region), None)

    # ------------------------------------------------------------------ decided once
    def _find_stops(self) -> tuple[str | None, str | None]:
        """The stop tokens after an assistant turn: in the middle of a chat, and at its end. None: there is none."""
        try:
            final = self.text(_PROBE_CHAT[:2]).rpartition(_ANSWER)[2]
            middle = self.text(_PROBE_CHAT[:3]).rpartition(_ANSWER)[2].partition(_USER_2)[0]
        except _TEMPLATE_ERRORS as error:
            raise UserError(_no_use(f"the chat template can't render a plain chat: {_one_line(error)}")) from error
        # What only the middle has is the next turn's header.
        stop = self._first_added(final[: common_prefix(final, middle)])
        return stop, stop or self._first_added(final)

    def _first_added(self, text: str) -> str | None:
        found = [(text.index(token), -len(token), token) for token in self._added if token in text]
        return min(found)[2] if found else None

    def _decide(self) -> How:
        if self.loss_on == "all":
            return "none"
        template = self.tokenizer.get_chat_template(None, None)
        if _has_markers(template) and self._works("markers"):
            return "markers"
        if (variant := _training_template(self.tokenizer)) is not None:
            self._training_template = variant
            if self._works("training_template"):
                return "training_template"
            self._training_template = None
        if self._works("prefix"):
            return "prefix"
        raise UserError(
            _no_use(
                "the chat template has no {% generation %} markers, is none that TRL knows, and can't be rendered "
                "turn by turn, so that assistant turns can't be told from the rest"
            )
        )

    def _works(self, how: How) -> bool:
        """Whether `how` finds the probe chat's assistant turns, and nothing of its users'."""
        self.how = how
        first = 3 if self.loss_on == "completion" else 0
        answers = (_ANSWER_2,) if first else (_ANSWER, _ANSWER_2)
        try:
            text = self.text(_PROBE_CHAT)
            turns = [3] if first else [1, 3]
            find = self._prefix_spans if how == "prefix" else self._marked_spans
            parts = [text[start:end] for start, end in find(text, _PROBE_CHAT, turns, None, None)]
        except (CannotRender, *_TEMPLATE_ERRORS):
            return False
        return len(parts) == len(answers) and all(
            answer in part and _USER not in part and _USER_2 not in part
            for answer, part in zip(answers, parts, strict=True)
        )

    def _take_notes(self) -> None:
        eos = self.tokenizer.eos_token
        if self.final_stop is None:
            self.notes.append(
                f"the chat template writes no stop token after the last answer: EOS ({eos}) is appended and learned"
            )
        elif self.final_stop != eos:
            self.notes.append(f"turns end with {self.final_stop}, not with the tokenizer's EOS ({eos})")
        bos = self.tokenizer.bos_token
        if bos and self.bos == "none" and adds_bos(self.tokenizer):
            self.notes.append(
                f"the chat template writes no BOS ({bos}): chats go without it, as when they are prompted"
            )
        if "strftime_now" in self.tokenizer.get_chat_template(None, None):
            self.notes.append("the chat template writes the current date")

    @property
    def bos(self) -> Literal["template", "none"]:
        bos = self.tokenizer.bos_token
        return "template" if bos and self.text(_PROBE_CHAT).startswith(bos) else "none"

    def info(self) -> MaskingInfo:
        """What was decided, for the manifest."""
        template = self.tokenizer.get_chat_template(None, None)
        return MaskingInfo(
            how=self.how,
            stop_token=self.final_stop or self.tokenizer.eos_token,
            bos=self.bos,
            template_fingerprint=hashlib.sha256(template.encode()).hexdigest()[:16],
            notes=tuple(self.notes),
        )


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts BOS before plain text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """TRL's training variant of the tokenizer's template, where it knows one."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except _TEMPLATE_ERRORS:
        return None


def _has_markers(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every token outside the plain vocabulary, longest first; Gemma's newline tokens and the like are no stops."""
    added: Iterable[str] = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return sorted({token for token in (*added, *tokenizer.all_special_tokens) if token.strip()}, key=len, reverse=True)


def _with_probe(message: Message) -> dict[str, Any]:
    parts = isinstance(message.get("content"), list)
    return {**message, "content": [{"type": "text", "text": PROBE}] if parts else PROBE}


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items (characters, tokens) two sequences share from the start."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _no_use(message: str) -> Problem:
    return Problem(
        message,
        field="data.loss_on",
        hint="name another template with model.chat_template_path, or train on every token with data.loss_on: all",
    )
