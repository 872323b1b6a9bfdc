"""Layouts for prompts alone (GRPO, PPO, generation): the prompt, and every other column for the rewards."""

from __future__ import annotations

from collections.abc import Callable

from alignkit.examples.layouts.base import (
    OPENING,
    Data,
    Layout,
    carried,
    chat_in,
    instruction_in,
    opening,
    text_in,
    user,
)
from alignkit.examples.messages import Skip, check_turns, is_transcript, read_messages, split_transcript


def _others(data: Data, *used: str) -> Data:
    others = {word: value for word, value in data.items() if word not in (*used, "tools", "chat_template_kwargs")}
    return {**others, **carried(data)}


def _prompt(data: Data) -> list[Data]:
    prompt = chat_in(data, "prompt", "empty prompt", "user")
    if isinstance(prompt, str) and is_transcript(prompt):
        prompt = _without_answer(split_transcript(prompt, "prompt"))
    return [{"prompt": prompt, **_others(data, "prompt")}]


def _asked(data: Data) -> list[Data]:
    prompt = [*opening(data), user(text_in(data, "question", "empty prompt"))]
    return [{"prompt": prompt, **_others(data, "prompt", "question", *OPENING)}]


def _instruction(data: Data) -> list[Data]:
    prompt = [*opening(data), user(instruction_in(data))]
    return [{"prompt": prompt, **_others(data, "prompt", "instruction", "input", *OPENING)}]


PUZZLE = (
    "Use each of the numbers {numbers} exactly once, with + - * / and brackets, to make {target}. "
    "Think first; write the expression alone on the last line."
)


def _puzzle(data: Data) -> list[Data]:
    numbers, target = data["numbers"], data.get("target") or 24
    if not isinstance(numbers, list) or not numbers:
        raise Skip("no numbers")
    prompt = [*opening(data), user(PUZZLE.format(numbers=", ".join(map(str, numbers)), target=target))]
    return [{"prompt": prompt, **_others(data, *OPENING), "target": target}]


def _without_answer(messages: list[Data]) -> list[Data]:
    """A chat up to the last thing that is not the assistant's."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not any(message["content"].strip() for message in messages[:end]):
        raise Skip("empty prompt")
    return check_turns(messages[:end])


def _chat(word: str, sharegpt: bool) -> Callable[[Data], list[Data]]:
    def build(data: Data) -> list[Data]:
        messages = _without_answer(read_messages(data.get(word), word, sharegpt))
        before = opening({**data, "history": None})
        if before and messages[0]["role"] != "system":
            messages = [*before, *messages]
        return [{"prompt": messages, **_others(data, "prompt", word, *OPENING[:2])}]

    return build


LAYOUTS = (
    Layout(
        "prompt",
        "prompt_only",
        "a text as it stands, messages, or a transcript up to the last `Assistant:`",
        ("prompt",),
        _prompt,
        rank=0,
    ),
    Layout(
        "question_prompt",
        "prompt_only",
        "a question as the user's turn",
        ("question",),
        _asked,
        OPENING,
        {"question": ("query", "problem")},
        plain=True,
    ),
    Layout(
        "instruction_prompt",
        "prompt_only",
        "`instruction`, and `input` after an empty line where there is one",
        ("instruction",),
        _instruction,
        ("input", *OPENING),
        plain=True,
    ),
    Layout(
        "puzzle_prompt",
        "prompt_only",
        "numbers to combine into a target (24 by default), asked for in a fixed sentence",
        ("numbers",),
        _puzzle,
        ("target", *OPENING),
        {"numbers": ("nums",)},
        plain=True,
        rank=2,
    ),
    Layout(
        "messages_prompt",
        "prompt_only",
        "a chat without the answer that ends it",
        ("messages",),
        _chat("messages", sharegpt=False),
        OPENING[:2],
    ),
    Layout(
        "sharegpt_prompt",
        "prompt_only",
        "a ShareGPT chat without the answer that ends it",
        ("conversations",),
        _chat("conversations", sharegpt=True),
        OPENING[:2],
    ),
)
