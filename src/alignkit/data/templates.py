"""Chats as text, with the characters the assistant has to write marked.

How the marks are found is decided once for a tokenizer, by rendering a probe chat:

- `markers`: the template has `{% generation %}` blocks;
- `training_template`: TRL knows a variant of the template that has them, and renders the same text;
- `prefix`: the chat is rendered turn by turn. A turn begins where its prompt (the messages before it, with the
  generation prompt) ends, and ends with its stop token.

A turn's stop token (`<|im_end|>`, `<|eot_id|>`, `</s>` …) belongs to it; what the template writes after it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from transformers.utils.chat_template_utils import render_jinja_template

from alignkit.data.turns import TEMPLATE_ERRORS, CannotRender, Message, Span, Stops, Turns, common_prefix
from alignkit.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Variables = Mapping[str, Any] | None
How = Literal["markers", "training_template", "prefix", "none"]

_USER, _ANSWER, _USER_2, _ANSWER_2 = "31415", "27182", "16180", "14142"
_PROBE_CHAT: tuple[Message, ...] = (
    {"role": "user", "content": _USER},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _USER_2},
    {"role": "assistant", "content": _ANSWER_2},
)


@dataclass(frozen=True)
class MaskingInfo:
    """What was decided about a tokenizer's chats; goes to the manifest.

    Attributes:
        how: how the assistant's turns are found; `none` where the data has no chats, or all of them is learned.
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
        self.template: str = tokenizer.get_chat_template(None, None)
        self._special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
        self._training_template: str | None = None
        self.stops = self._find_stops()
        self.how: How = "none" if loss_on == "all" else self._decide(last_only=loss_on == "completion")

    # ------------------------------------------------------------------ text
    def text(
        self,
        messages: Sequence[Message],
        tools: Any = None,
        variables: Variables = None,
        *,
        generation_prompt: bool = False,
    ) -> str:
        """The chat as the template writes it: what `tokenizer.apply_chat_template(tokenize=False)` gives."""
        template = self.tokenizer.get_chat_template(None, tools)
        return self._render(template, messages, tools, variables, generation_prompt=generation_prompt)[0]

    def _render(
        self,
        template: str,
        messages: Sequence[Message],
        tools: Any,
        variables: Variables,
        *,
        generation_prompt: bool = False,
        marks: bool = False,
    ) -> tuple[str, list[Span]]:
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        texts, spans = render_jinja_template(
            **{
                **self._special,
                **(variables or {}),
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
        variables: Variables = None,
        whole: bool = False,
    ) -> Chat:
        """Render a chat and find its supervised characters.

        Args:
            first: assistant turns before this message are not supervised.
            variables: a row's `chat_template_kwargs`.
            whole: supervise everything (`loss_on: all`).

        Raises:
            CannotRender: the template refuses the chat, or one of its turns can't be found.
        """
        try:
            text = self.text(messages, tools, variables)
            append_eos = self.stops.final is None and messages[-1]["role"] == "assistant"
            if whole:
                return Chat(text, [(0, len(text))], append_eos)
            indices = [index for index in range(first, len(messages)) if messages[index]["role"] == "assistant"]
            if not indices:
                raise CannotRender("no assistant turn")
            turns = Turns(partial(self.text, tools=tools, variables=variables), messages, text, self.stops)
            spans = self._marked_spans(turns, indices, tools, variables) or turns.spans(indices)
            return Chat(text, spans, append_eos)
        except TEMPLATE_ERRORS as error:
            raise CannotRender(f"the chat template refuses it: {_one_line(error)}") from error

    def _marked_spans(self, turns: Turns, indices: list[int], tools: Any, variables: Variables) -> list[Span]:
        """Spans from `{% generation %}` blocks; none where the way chosen has none for this chat."""
        if self.how not in ("markers", "training_template"):
            return []
        template = self._training_template or self.tokenizer.get_chat_template(None, tools)
        if not _has_markers(template):  # the variant for tools of a template that comes as several
            return []
        rendered, spans = self._render(template, turns.messages, tools, variables, marks=True)
        if rendered != turns.text:  # TRL's variant departs from the original on this chat
            return []
        earlier = any(message["role"] == "assistant" for message in turns.messages[: indices[0]])
        since = turns.start(indices[0]) if earlier else 0
        if self._training_template is not None:  # TRL's blocks may begin within the generation prompt
            starts = [turns.start(index) for index in indices]
            spans = [(max([start, *(at for at in starts if start < at < end)]), end) for start, end in spans]
        text = turns.text
        found = [(start, self.stops.settle(text, start, end)) for start, end in spans if end > max(start, since)]
        if found and self.stops.final is None and indices[-1] == len(turns.messages) - 1:
            found[-1] = (found[-1][0], len(text))  # EOS follows the text's end: what lies between is learned too
        return found

    # ------------------------------------------------------------------ decided once
    def _find_stops(self) -> Stops:
        added = _added_tokens(self.tokenizer)
        try:
            final = self.text(_PROBE_CHAT[:2]).rpartition(_ANSWER)[2]
            middle = self.text(_PROBE_CHAT[:3]).rpartition(_ANSWER)[2].partition(_USER_2)[0]
        except TEMPLATE_ERRORS as error:
            raise UserError(_no_use(f"the chat template can't render a plain chat: {_one_line(error)}")) from error
        # What only the middle has is the next turn's header.
        stop = _added_run(added, final[: common_prefix(final, middle)])
        if stop is None:  # another token ends the last turn, as <|return|> of gpt-oss: what do all headers follow?
            with contextlib.suppress(*TEMPLATE_ERRORS):
                other = self.text([*_PROBE_CHAT[:2], _PROBE_CHAT[3]]).partition(_ANSWER)[2].partition(_ANSWER_2)[0]
                run = _added_run(added, middle[: common_prefix(middle, other)])
                stop = run and next(token for token in added if run.startswith(token))
        return Stops(added, stop, _added_run(added, final))

    def _decide(self, last_only: bool) -> How:
        if _has_markers(self.template) and self._works("markers", last_only):
            return "markers"
        self._training_template = _training_template(self.tokenizer)
        if self._training_template is not None and self._works("training_template", last_only):
            return "training_template"
        self._training_template = None
        if self._works("prefix", last_only):
            return "prefix"
        raise UserError(
            _no_use(
                "the chat template has no {% generation %} markers, is none that TRL knows, and can't be rendered "
                "turn by turn, so that assistant turns can't be told from the rest"
            )
        )

    def _works(self, how: How, last_only: bool) -> bool:
        """Whether `how` finds the probe chat's assistant turns, and nothing of its users'."""
        self.how = how
        indices, answers = ([3], [_ANSWER_2]) if last_only else ([1, 3], [_ANSWER, _ANSWER_2])
        try:
            turns = Turns(self.text, _PROBE_CHAT, self.text(_PROBE_CHAT), self.stops)
            spans = turns.spans(indices) if how == "prefix" else self._marked_spans(turns, indices, None, None)
        except (CannotRender, *TEMPLATE_ERRORS):
            return False
        parts = [turns.text[start:end] for start, end in spans]
        return len(parts) == len(answers) and all(
            answer in part and _USER not in part and _USER_2 not in part
            for answer, part in zip(answers, parts, strict=True)
        )

    def info(self) -> MaskingInfo:
        """What was decided, for the manifest."""
        bos = self.tokenizer.bos_token
        writes_bos = bool(bos) and self.text(_PROBE_CHAT).startswith(bos)
        return MaskingInfo(
            how=self.how,
            stop_token=self.stops.token or self.tokenizer.eos_token,
            bos="template" if writes_bos else "none",
            template_fingerprint=hashlib.sha256(self.template.encode()).hexdigest()[:16],
            notes=tuple(self._notes(writes_bos)),
        )

    def _notes(self, writes_bos: bool) -> list[str]:
        bos, eos, stop = self.tokenizer.bos_token, self.tokenizer.eos_token, self.stops.token
        notes = []
        if stop is None:
            notes.append(f"the chat template ends the last answer with no stop token: EOS ({eos}) is appended, learned")
        elif stop != eos:
            notes.append(f"answers end with {stop}, not with the tokenizer's EOS ({eos})")
        if not writes_bos and adds_bos(self.tokenizer):
            notes.append(f"the chat template writes no BOS ({bos}): chats go without it, as when prompted")
        if "strftime_now" in self.template:
            notes.append("the chat template writes the current date")
        return notes


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts BOS before plain text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """TRL's training variant of the tokenizer's template, where it knows one."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except TEMPLATE_ERRORS:
        return None


def _has_markers(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every token outside the plain vocabulary, longest first; Gemma's newline tokens and the like are no stops."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    return tuple(sorted((token for token in added if token.strip()), key=lambda token: (-len(token), token)))


def _added_run(added: Sequence[str], text: str) -> str | None:
    """The first added token in `text`, with those that follow it directly."""
    match = re.search(rf"(?:{'|'.join(map(re.escape, added))})+", text) if added else None
    return match[0] if match else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _no_use(message: str) -> Problem:
    return Problem(
        message,
        field="data.loss_on",
        hint="name another template with model.chat_template_path, or train on every token with data.loss_on: all",
    )
