"""Examples as prompts: rendered exactly as in training, up to where the assistant's last turn would begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.prompts import encode_prompt, prompt_text
from alignkit.data.templates import ChatTemplate
from alignkit.data.turns import CannotRender
from alignkit.errors import Problem, UserError
from alignkit.examples import Example, plain_text
from alignkit.metrics.references import references_of


@dataclass(frozen=True)
class Prompt:
    """One prompt: its text and tokens, and the answers that are right."""

    example: Example
    text: str
    ids: list[int]
    references: list[str]


def as_prompts(examples: Sequence[Example], tokenizer: Any) -> list[Prompt]:
    """The prompts of examples, in order; chats that the template refuses are left out.

    Raises:
        UserError: an example holds no prompt, or a chat meets a tokenizer without a template.
    """
    # `all`: a prompt needs the template alone, not a way to tell the assistant's turns apart.
    chat = ChatTemplate(tokenizer, "all") if tokenizer.chat_template is not None else None
    made = []
    for example in examples:
        try:
            text, references, special = _prompt_of(example, chat)
        except CannotRender:
            continue
        made.append(Prompt(example, text, encode_prompt(tokenizer, text, special), references))
    return made


def _prompt_of(example: Example, chat: ChatTemplate | None) -> tuple[str, list[str], bool]:
    """The prompt as text, its references, and whether the tokenizer adds special tokens (templates write theirs)."""
    data = example.data
    if chat is None:
        data = plain_text(dict(data), example.transcript) if example.plain else data
    prompt, references = _split(data, example)
    if not isinstance(prompt, str) and chat is None:
        hint = "name one with model.chat_template_path"
        raise UserError(Problem("the data hold chats, and the tokenizer has no chat template", field="data", hint=hint))
    text, special = prompt_text(prompt, data, chat)
    return text, references, special


def _split(data: Mapping[str, Any], example: Example) -> tuple[Any, list[str]]:
    """The prompt (text or messages) and the references of canonical data."""
    if "messages" in data:
        turns = [index for index, message in enumerate(data["messages"]) if message["role"] == "assistant"]
        if not turns or turns[-1] == 0:
            raise CannotRender("no assistant turn to complete")
        return list(data["messages"][: turns[-1]]), [_content(data["messages"][turns[-1]])]
    if "prompt" not in data:
        hint = "give prompt and completion, messages, or prompt with an answer column"
        raise UserError(
            Problem(f"{example.id} is a text without a prompt: nothing to complete", field="data", hint=hint)
        )
    if "completion" in data:
        completion = data["completion"]
        if isinstance(completion, str):
            return data["prompt"], [completion]
        turns = [index for index, message in enumerate(completion) if message["role"] == "assistant"]
        return [*data["prompt"], *completion[: turns[-1]]], [_content(completion[turns[-1]])]
    return data["prompt"], references_of(data)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
