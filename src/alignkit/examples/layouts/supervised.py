"""Layouts for supervised fine-tuning: language modelling and prompt-completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from alignkit.examples.layouts.base import (
    OPENING,
    Data,
    Layout,
    as_messages,
    assistant,
    carried,
    chat_in,
    instruction_in,
    opening,
    text_in,
    user,
)
from alignkit.examples.messages import (
    BadRow,
    Skip,
    as_list,
    check_turns,
    is_transcript,
    kind_of,
    read_messages,
    split_transcript,
)


def _text(data: Data) -> list[Data]:
    return [{"text": text_in(data, "text", "empty text")}]


def _messages(word: str, sharegpt: bool) -> Callable[[Data], list[Data]]:
    def build(data: Data) -> list[Data]:
        messages = check_turns(read_messages(data.get(word), word, sharegpt))
        before = opening({**data, "history": None})
        if before and messages[0]["role"] != "system":
            messages = [*before, *messages]
        return [{"messages": messages, **carried(data)}]

    return build


def _transcript(data: Data) -> list[Data]:
    text = text_in(data, "text", "empty text")
    return [{"messages": check_turns(split_transcript(text, "text"))}]


def _prompt_completion(data: Data) -> list[Data]:
    prompt = chat_in(data, "prompt", "empty prompt", "user")
    completion = chat_in(data, "completion", "empty answer", "assistant")
    if isinstance(prompt, str) and isinstance(completion, str):
        return [{"prompt": prompt, "completion": completion, **carried(data)}]
    return [_pair(as_messages(prompt, "user"), as_messages(completion, "assistant"), data)]


def _pair(prompt: list[Data], completion: list[Data], data: Data) -> Data:
    return {"prompt": prompt, "completion": completion, **carried(data)}


def _alpaca(answer: str, extra: str) -> Callable[[Data], list[Data]]:
    def build(data: Data) -> list[Data]:
        asked = instruction_in(data, extra=extra)
        said = text_in(data, answer, "empty answer")
        return [_pair([*opening(data), user(asked)], [assistant(said)], data)]

    return build


def _self_instruct(data: Data) -> list[Data | Skip]:
    text_in(data, "instruction", "empty prompt")
    made: list[Data | Skip] = []
    for number, instance in enumerate(as_list(data.get("instances") or [], "instances"), 1):
        if not isinstance(instance, dict):
            raise BadRow(
                f"instance {number} must be an object with input and output, not {kind_of(instance)}", "instances"
            )
        try:
            asked = instruction_in({**instance, "instruction": data["instruction"]})
            made.append(_pair([user(asked)], [assistant(text_in(instance, "output", "empty answer"))], {}))
        except Skip as skip:
            made.append(skip)
        except BadRow as bad:
            raise BadRow(f"{bad.column} of instance {number} {bad}", "instances", bad.hint) from None
    if not made:
        raise Skip("no instances")
    return made


def _question(ask: str, tell: str, aliases: Mapping[str, tuple[str, ...]] | None = None) -> Layout:
    def build(data: Data) -> list[Data]:
        asked, said = text_in(data, ask, "empty prompt"), text_in(data, tell, "empty answer")
        return [_pair([*opening(data), user(asked)], [assistant(said)], data)]

    return Layout(
        name=f"{ask}_{tell}",
        shape="prompt_completion",
        description=f"`{ask}` as the user's turn, `{tell}` as the assistant's",
        required=(ask, tell),
        optional=OPENING,
        aliases=aliases or {},
        build=build,
        plain=True,
    )


LAYOUTS = (
    Layout(
        "messages",
        "language_modeling",
        "a chat as OpenAI and TRL write it: `role` and `content`, `tool_calls`, …",
        ("messages",),
        _messages("messages", sharegpt=False),
        ("system", "system_prompt"),
        rank=0,
    ),
    Layout(
        "sharegpt",
        "language_modeling",
        "`from`/`value` or `role`/`content`, with human, gpt, function_call, observation and their kin",
        ("conversations",),
        _messages("conversations", sharegpt=True),
        ("system", "system_prompt"),
    ),
    Layout(
        "hh_transcript",
        "language_modeling",
        "`text` that is a transcript: Human: …, Assistant: …, an empty line before each",
        ("text",),
        _transcript,
        when=lambda sample: is_transcript(sample["text"]),
    ),
    Layout(
        "prompt_completion",
        "prompt_completion",
        "two texts that are joined as they stand, or two lists of messages",
        ("prompt", "completion"),
        _prompt_completion,
        rank=0,
    ),
    Layout(
        "self_instruct",
        "prompt_completion",
        "an instruction and its `instances`, each with `input` and `output`: an example each",
        ("instruction", "instances"),
        _self_instruct,
        plain=True,
    ),
    Layout(
        "alpaca",
        "prompt_completion",
        "`instruction`, and `input` after an empty line where there is one, answered by `output`",
        ("instruction", "output"),
        _alpaca("output", "input"),
        ("input", *OPENING),
        plain=True,
    ),
    Layout(
        "dolly",
        "prompt_completion",
        "`instruction`, and `context` after an empty line where there is one, answered by `response`",
        ("instruction", "context", "response"),
        _alpaca("response", "context"),
        OPENING,
        plain=True,
    ),
    _question("problem", "solution"),  # before question_answer: such data also have the bare result as `answer`
    _question("question", "answer", {"question": ("query", "problem"), "answer": ("response",)}),
    _question("instruction", "response"),
    _question("prompt", "response"),
    _question("input", "output"),
    Layout("text", "language_modeling", "plain text, learned as it stands", ("text",), _text, rank=2),
)
