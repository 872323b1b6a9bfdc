"""Examples as prompts: rendered exactly as in training, up to where the assistant's last turn would begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.data.templates import ChatTemplate
from alignkit.data.turns import CannotRender
from alignkit.errors import Problem, UserError
from alignkit.examples import Example, plain_text

REFERENCES = ("references", "reference", "answers", "answer", "solution", "target", "output", "response", "label")
"""Columns that hold what a prompt's answer should be, in order of preference."""


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
        made.append(Prompt(example, text, _encode(tokenizer, text, special), references))
    return made


def _prompt_of(example: Example, chat: ChatTemplate | None) -> tuple[str, list[str], bool]:
    """The prompt as text, its references, and whether the tokenizer adds special tokens (templates write theirs)."""
    data = example.data
    if chat is None:
        data = plain_text(dict(data)) if example.plain else data
    prompt, references = _split(data, example)
    if isinstance(prompt, str):
        return prompt, references, True
    if chat is None:
        hint = "name one with model.chat_template_path"
        raise UserError(Problem("the data hold chats, and the tokenizer has no chat template", field="data", hint=hint))
    try:
        text = chat.text(prompt, data.get("tools"), data.get("chat_template_kwargs"), generation_prompt=True)
    except Exception as error:  # a template is a program, and may refuse a chat in any way it likes
        raise CannotRender(str(error)) from error
    return text, references, False


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
    return data["prompt"], _references(data)


def _references(data: Mapping[str, Any]) -> list[str]:
    for column in REFERENCES:
        value = data.get(column)
        if isinstance(value, list) and value and all(isinstance(one, str | int | float) for one in value):
            return [str(one) for one in value]
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return [str(value)]
    return []


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    """Token ids as training has them before the answer: no EOS after the prompt, one BOS at most, and never nothing."""
    ids = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if special and eos is not None and len(ids) > 1 and ids[-1] == eos and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]  # a tokenizer that closes each text itself
    while bos is not None and len(ids) > 1 and ids[0] == bos and ids[1] == bos:
        ids = ids[1:]
    if not ids and (first := bos if bos is not None else eos) is not None:
        ids = [first]
    return ids
