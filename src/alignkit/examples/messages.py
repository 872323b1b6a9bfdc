"""Chats: roles checked, ShareGPT's words translated, transcripts cut into turns and joined again."""

from __future__ import annotations

import json
import re
from typing import Any

from alignkit.examples.types import closest, did_you_mean

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool", "developer")
# ShareGPT and its descendants, in lower case.
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "function_call": "assistant",
    "developer": "developer",
}
TRANSCRIPT = re.compile(r"\s*(Human|Assistant):(?=\s|\Z)")
# A turn starts at the very beginning or after an empty line; one space after the colon belongs to the mark.
TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):(?: |(?=\n)|\Z)")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
MARKS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}


class BadRow(Exception):
    """A row that no reading can save: the message, the column and the likely fix; the layout adds file and line."""

    def __init__(self, message: str, column: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.column = column
        self.hint = hint


class Skip(Exception):
    """A row that is well formed but of no use, and why; it is dropped and counted."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


def kind_of(value: Any) -> str:
    """A value's type in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def is_messages(value: Any) -> bool:
    """Whether a value is meant as a list of messages; also as JSON text, as it comes out of csv files, but then each
    must have a role: an answer that is some other JSON stays an answer."""
    if isinstance(value, str):
        if not (value.lstrip().startswith("[") and '"' in value and value.rstrip().endswith("]")):
            return False
        try:
            value = json.loads(value)
        except ValueError:
            return False
        return is_messages(value) and all("role" in message or "from" in message for message in value)
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def as_list(value: Any, column: str) -> list[Any]:
    """A list, or the list that a JSON text holds."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow("must be a list, and this text is not one in JSON", column) from None
    if not isinstance(value, list):
        raise BadRow(f"must be a list, not {kind_of(value)}", column)
    return value


def read_messages(value: Any, column: str, sharegpt: bool = False) -> list[Message]:
    """Messages with `role` and `content` (text), other keys kept unless null.

    `from`/`value` are ShareGPT's words and translated; with `sharegpt` its names of roles are taken under `role` too.
    Raises BadRow for anything that is not a chat, Skip for none at all.
    """
    if value is None:
        raise Skip("empty chat")
    if isinstance(value, dict):
        value = [value]
    messages = [_message(item, number, column, sharegpt) for number, item in enumerate(as_list(value, column), 1)]
    if not messages:
        raise Skip("empty chat")
    return messages


def _message(item: Any, number: int, column: str, sharegpt: bool) -> Message:
    where = f"message {number}"
    if not isinstance(item, dict):
        raise BadRow(f"{where} must be an object with role and content, not {kind_of(item)}", column)
    item = {key: value for key, value in item.items() if value is not None or key in ("content", "value")}
    if "from" in item and "value" in item and "role" not in item:
        sharegpt = True
        item = {{"from": "role", "value": "content"}.get(key, key): value for key, value in item.items()}
    if "role" not in item:
        slip = closest("role", item)
        hint = f"rename {slip} to role" if slip else None
        raise BadRow(f"{where} has no role, only {', '.join(map(str, item)) or 'nothing'}", column, hint)
    role = _role(item["role"], where, column, sharegpt)
    message = {**item, "role": role}
    if item["role"] == "function_call":
        message["content"], message["tool_calls"] = "", _function_call(item.get("content"), where, column)
    elif "content" not in item and "tool_calls" not in item:
        slip = closest("content", set(item) - {"role"})
        raise BadRow(f"{where} has no content", column, f"rename {slip} to content" if slip else None)
    else:
        message["content"] = _content(item.get("content"), where, column)
    if not isinstance(message.get("tool_calls", []), list):
        raise BadRow(f"tool_calls of {where} must be a list, not {kind_of(message['tool_calls'])}", column)
    return message


def _role(role: Any, where: str, column: str, sharegpt: bool) -> str:
    if not isinstance(role, str):
        raise BadRow(f"the role of {where} must be text, not {kind_of(role)}", column)
    if role in ROLES:
        return role
    meant = SHAREGPT_ROLES.get(role.strip().lower())
    if sharegpt and meant is not None:
        return meant
    hint: str | None
    if meant is not None:
        hint = f"write {meant} (OpenAI's old name)" if role == "function" else f"write {meant}"
    else:
        hint = did_you_mean(role.lower(), [*ROLES, *(SHAREGPT_ROLES if sharegpt else ())])
    raise BadRow(f"{role!r} in {where} is not a role; known: {', '.join(ROLES)}", column, hint)


def _content(content: Any, where: str, column: str) -> str:
    """The text of a message; OpenAI's list of parts is joined, since most templates take text alone."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow(f"the content of {where} must be text, not {kind_of(content)}", column)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            shown = f"a part of type {kind!r}" if isinstance(part, dict) else kind_of(part)
            raise BadRow(f"the content of {where} holds {shown}; only text parts are supported", column)
        texts.append(part["text"])
    return "".join(texts)


def _function_call(content: Any, where: str, column: str) -> list[dict[str, Any]]:
    """ShareGPT's function_call turn, {"name": …, "arguments": …} as JSON text (or a list of them), as tool_calls."""
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        raise BadRow(f"the function_call of {where} is not valid JSON", column) from None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise BadRow(f'the function_call of {where} must be {{"name": …, "arguments": {{…}}}}', column)
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def says_nothing(message: Message) -> bool:
    """Whether a message has neither text nor tool calls nor reasoning."""
    return not (message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content"))


def check_turns(messages: list[Message]) -> list[Message]:
    """The messages, unless a turn of the user or the assistant says nothing: then Skip."""
    for message in messages:
        if says_nothing(message):
            if message["role"] == "assistant":
                raise Skip("empty answer")
            if message["role"] == "user":
                raise Skip("empty prompt")
    return messages


def is_transcript(value: Any) -> bool:
    """Whether a text is an HH-RLHF transcript ("\\n\\nHuman: … \\n\\nAssistant: …")."""
    return isinstance(value, str) and TRANSCRIPT.match(value) is not None


def split_transcript(text: str, column: str) -> list[Message]:
    """The turns of an HH-RLHF transcript, their text untouched: `join_transcript` gives the transcript back."""
    if not is_transcript(text):
        raise BadRow('must be a transcript that starts with "\\n\\nHuman: "', column)
    _, *pieces = TURN.split(text)
    return [
        {"role": SPEAKERS[speaker], "content": said} for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def join_transcript(messages: list[Message]) -> str:
    """The transcript that `split_transcript` cut (in HH-RLHF's own spacing)."""
    return "".join(MARKS[message["role"]] + message["content"] for message in messages)


def shared_turns(chosen: list[Message], rejected: list[Message]) -> int:
    """How many leading messages are the prompt of both: the shared ones, up to where an answer starts on both sides.

    An answer is never empty and starts with the assistant. Identical chats give all but the last answer.
    """
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    count = min(count, len(chosen) - 1, len(rejected) - 1)
    while count > 0 and not (chosen[count]["role"] == rejected[count]["role"] == "assistant"):
        count -= 1
    return count
