"""Examples to tokens and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from alignkit.data.templates import ChatTemplate, MaskingInfo, adds_bos
from alignkit.data.turns import CannotRender, Span, common_prefix
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example, plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.data.rows import RenderedRow
    from alignkit.recipe import Recipe

NO_TEMPLATE = "the tokenizer has no chat template"
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as the model sees it: `input_ids` and `labels`, (T,) int32 each; labels are -100 if not learned."""

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool

    def row(self) -> dict[str, Any]:
        """Its columns as the data set has them."""
        return {
            "input_ids": self.input_ids.tolist(),
            "labels": self.labels.tolist(),
            "length": len(self.input_ids),
            "example_id": self.id,
        }


class Renders(Protocol):
    """What turns examples into rows: `Renderer` for language modelling; methods with other rows bring their own.

    It is pickled where rendering takes several processes.
    """

    def render(self, examples: Sequence[Example]) -> Sequence[Rendered | RenderedRow | Dropped]:
        """The row of each example, or why it has none; in order."""

    def check(self, recipe: Recipe, example: Example) -> None:
        """Raise a UserError for what no example of such a source can get past."""

    def info(self) -> MaskingInfo | None:
        """How the examples rendered so far were masked; None where nothing is."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """An example's whole text, which characters are learned, and what the tokenizer and we add to it."""

    text: str
    spans: list[Span]
    special_tokens: bool  # let the tokenizer add its own (BOS …); chat templates write theirs
    append_eos: bool


class Renderer:
    """Turns examples into tokens and labels; can be pickled for worker processes.

    Args:
        loss_on: `assistant`, `completion`, `all`, or None for what the shape suggests.
        max_length: longer examples keep their first tokens; None keeps all.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, loss_on: str | None = None, max_length: int | None = None):
        self.tokenizer = tokenizer
        self.loss_on = loss_on
        self.max_length = max_length

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """How chats are rendered; None without a chat template. Raises UserError for a template that can't be used."""
        if self.tokenizer.chat_template is None:
            return None
        return ChatTemplate(self.tokenizer, self.loss_on or "assistant")

    def info(self) -> MaskingInfo:
        """How the examples rendered so far were masked. Without chats: the stop token is EOS, put after each text."""
        if (chat := self.__dict__.get("chat")) is not None:
            return chat.info()
        bos = "tokenizer" if adds_bos(self.tokenizer) else "none"
        return MaskingInfo("none", self.tokenizer.eos_token, bos)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ what can't be used
    def check(self, recipe: Recipe, example: Example) -> None:
        """What no example of such a source can get past. Raises UserError."""
        data = example.data
        if "text" in data:
            if self.loss_on in ("assistant", "completion"):
                message = f"{self.loss_on}: {example.row.origin} is plain text, which has no such part"
                raise UserError(recipe.problem("data.loss_on", message, "leave it out, or say all"))
            return
        if isinstance(data.get("prompt"), str) and isinstance(data.get("completion"), str):
            return
        try:
            usable = self.chat is not None or example.plain
        except UserError as error:
            placed = [recipe.problem(one.field or "data", one.message, one.hint) for one in error.problems]
            raise UserError(placed) from error
        if not usable:
            message = f"{NO_TEMPLATE}, and {example.row.origin} holds chats"
            hint = "name a .jinja file, or a model that has a template; or give prompt and completion texts"
            raise UserError(recipe.problem("model.chat_template_path", message, hint))

    # ------------------------------------------------------------------ examples to tokens
    def render(self, examples: Sequence[Example]) -> list[Rendered | Dropped]:
        """Tokens and labels of each example, or why it has none; in order. Fastest with hundreds at a time."""
        plans: list[_Plan | Dropped] = []
        for example in examples:
            try:
                plans.append(self._plan(example))
            except CannotRender as error:
                plans.append(Dropped(example.id, str(error), example.row))
        encoded = self._encode([plan for plan in plans if isinstance(plan, _Plan)])
        return [
            plan if isinstance(plan, Dropped) else self._finish(example, plan, *next(encoded))
            for example, plan in zip(examples, plans, strict=True)
        ]

    def _plan(self, example: Example) -> _Plan:
        data: Mapping[str, Any] = example.data
        if "text" in data:
            if not data["text"]:
                raise CannotRender("empty text")
            return _Plan(data["text"], [(0, len(data["text"]))], True, True)
        if _is_pair(data):
            return self._plan_pair(data["prompt"], data["completion"])
        if self.chat is None:
            if not example.plain:
                raise CannotRender(NO_TEMPLATE)
            data = plain_text(dict(data), example.transcript)
            return self._plan_pair(data["prompt"], data["completion"])
        return self._plan_chat(data)

    def _plan_pair(self, prompt: str, completion: str) -> _Plan:
        if not completion:
            raise CannotRender("empty answer")
        text = prompt + completion
        return _Plan(text, [(0 if self.loss_on == "all" else len(prompt), len(text))], True, True)

    def _plan_chat(self, data: Mapping[str, Any]) -> _Plan:
        assert self.chat is not None
        prompt = list(data.get("prompt") or [])
        messages = list(data["messages"]) if "messages" in data else [*prompt, *data["completion"]]
        first = len(prompt)
        if self.loss_on == "completion" and "messages" in data:
            turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
            first = turns[-1] if turns else 0
        chat = self.chat.render(
            messages,
            first=first,
            tools=data.get("tools"),
            variables=data.get("chat_template_kwargs"),
            whole=self.loss_on == "all",
        )
        return _Plan(chat.text, chat.spans, False, chat.append_eos)

    # ------------------------------------------------------------------ text to tokens
    def _encode(self, plans: list[_Plan]) -> Any:
        """(ids, [first, last) token of each span) of each plan, in order."""
        results: list[tuple[list[int], list[Span]]] = [([], [])] * len(plans)
        for special in (True, False):
            indices = [index for index, plan in enumerate(plans) if plan.special_tokens is special]
            if not indices:
                continue
            texts = [plans[index].text for index in indices]
            batch = self.tokenizer(
                texts,
                add_special_tokens=special,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            for row, index in enumerate(indices):
                ids = batch["input_ids"][row]
                if self.tokenizer.is_fast:
                    found = [_tokens_of(batch.encodings[row], span, len(ids)) for span in plans[index].spans]
                else:
                    found = [self._tokens_by_prefix(plans[index], span, ids) for span in plans[index].spans]
                results[index] = (ids, found)
        return iter(results)

    def _tokens_by_prefix(self, plan: _Plan, span: Span, ids: list[int]) -> Span:
        """For tokenizers without offsets: the tokens that the text before the span, and through it, does not share."""

        def shared(end: int) -> tuple[int, int]:
            kept = plan.text[:end]
            before = self.tokenizer(kept, add_special_tokens=plan.special_tokens, verbose=False)["input_ids"]
            return common_prefix(before, ids), len(before)

        if span[1] == len(plan.text):
            last = len(ids)
        else:
            same, through = shared(span[1])
            last = same if same == through else same + 1
        return (shared(span[0])[0] if span[0] else 0), last

    def _finish(self, example: Example, plan: _Plan, ids: list[int], spans: list[Span]) -> Rendered | Dropped:
        """Labels from spans; EOS and BOS settled; cut to `max_length`."""
        tokens = np.array(ids, dtype=np.int32)
        labels: np.ndarray = np.full(len(tokens), IGNORED, dtype=np.int32)
        for first, last in spans:
            labels[first:last] = tokens[first:last]
        eos, bos = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        if plan.append_eos and eos is not None:
            learned = bool(plan.spans) and plan.spans[-1][1] == len(plan.text)
            if not len(tokens) or tokens[-1] != eos:
                tokens, labels = np.append(tokens, np.int32(eos)), np.append(labels, np.int32(IGNORED))
            labels[-1] = eos if learned else IGNORED
        if bos is not None:  # one from the template or the data, one from the tokenizer: keep one
            while len(tokens) > 1 and tokens[0] == bos and tokens[1] == bos:
                tokens, labels = tokens[1:], labels[1:]
        labels[:1] = IGNORED  # nothing comes before it to predict it from
        truncated = self.max_length is not None and len(tokens) > self.max_length
        if truncated:
            tokens, labels = tokens[: self.max_length], labels[: self.max_length]
        if not (labels != IGNORED).any():
            reason = f"no supervised token within max_length {self.max_length}" if truncated else "no supervised token"
            return Dropped(example.id, reason, example.row)
        return Rendered(example.id, tokens, labels, truncated)


def _is_pair(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("prompt"), str) and isinstance(data.get("completion"), str)


def _tokens_of(encoding: Any, span: Span, length: int) -> Span:
    """The tokens that hold any character of the span, as [first, last)."""
    start, end = span
    first = next((at for at in map(encoding.char_to_token, range(start, end)) if at is not None), None)
    if first is None:  # whitespace that the tokenizer leaves out
        return 0, 0
    final = next(at for at in map(encoding.char_to_token, range(end - 1, start - 1, -1)) if at is not None)
    last, characters = final + 1, encoding.token_to_chars(final)
    while last < length and encoding.token_to_chars(last) == characters:  # one character in several tokens (bytes)
        last += 1
    return first, last
