"""Layouts to their canonical form: recognised, converted, validated, mapped and forced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples_rows import SFT, A, U, convert, one, reasons, refused

from alignkit.examples import LAYOUTS, SHAPES, Dropped, Example, plain_text
from alignkit.examples.messages import ROLES

HI = {"role": "user", "content": "h\n\ni"}


def test_the_table_of_layouts_is_complete() -> None:
    assert {layout.shape for layout in LAYOUTS} == set(SHAPES)
    docs = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [layout.name for layout in LAYOUTS if f"| `{layout.name}` |" not in docs] == []


# ------------------------------------------------------------------ supervised


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": "plain"}, {"text": "plain"}),
        ({"messages": [U, A], "id": 1}, {"messages": [U, A]}),
        ({"messages": json.dumps([U, A])}, {"messages": [U, A]}),
        ({"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        ({"prompt": "p", "completion": '[{"name": "x"}]'}, {"prompt": "p", "completion": '[{"name": "x"}]'}),
        ({"prompt": json.dumps([U]), "completion": json.dumps([A])}, {"prompt": [U], "completion": [A]}),
        ({"prompt": [U], "completion": [A]}, {"prompt": [U], "completion": [A]}),
        ({"prompt": [U], "completion": "hello"}, {"prompt": [U], "completion": [A]}),
        ({"prompt": "hi", "completion": [A]}, {"prompt": [U], "completion": [A]}),
        ({"instruction": "hi", "output": "hello"}, {"prompt": [U], "completion": [A]}),
        ({"instruction": "hi", "input": None, "output": "hello", "text": "### hi"}, {"prompt": [U], "completion": [A]}),
        ({"instruction": "h", "input": "i", "output": "hello"}, {"prompt": [HI], "completion": [A]}),
        ({"instruction": "h", "context": "i", "response": "hello"}, {"prompt": [HI], "completion": [A]}),
        ({"question": "hi", "answer": "hello"}, {"prompt": [U], "completion": [A]}),
        ({"query": "hi", "response": "hello"}, {"prompt": [U], "completion": [A]}),
        (
            {"instruction": "hi", "output": "hello", "system": "s", "history": [["a", "b"]]},
            {
                "prompt": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    U,
                ],
                "completion": [A],
            },
        ),
        (
            {"system_prompt": "s", "question": "hi", "response": "hello"},
            {"prompt": [{"role": "system", "content": "s"}, U], "completion": [A]},
        ),
        ({"text": "\n\nHuman: hi\n\nAssistant: hello"}, {"messages": [U, A]}),
    ],
)
def test_supervised_layouts(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert one(row, *SFT) == wanted
    assert one(row, *reversed(SFT)) == wanted


def test_sharegpt_words_are_translated() -> None:
    chat = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "hello", "weight": 1},
    ]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert one({"conversations": chat, "tools": '[{"name": "f"}]'}, *SFT) == {
        "messages": [
            {"role": "system", "content": "s"},
            U,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {**A, "weight": 1},
        ],
        "tools": [{"name": "f"}],
    }
    swapped = {
        "conversations": [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "hello"}],
        "system": "s",
    }
    assert one(swapped, *SFT) == {"messages": [{"role": "system", "content": "s"}, U, A]}


def test_messages_keep_what_they_carry_and_join_text_parts() -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}], "name": None}
    row = {
        "messages": [{"role": "user", "content": parts}, call],
        "chat_template_kwargs": {"thinking": False},
        "tools": [],
    }
    assert one(row, *SFT) == {
        "messages": [U, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}],
        "chat_template_kwargs": {"thinking": False},
    }


def test_self_instruct_gives_an_example_an_instance() -> None:
    instances = [{"input": "", "output": "a"}, {"input": "x", "output": " "}, {"input": "x", "output": "b"}]
    first, second, third = convert({"instruction": "do", "instances": instances}, SFT)
    assert (first.id, second.id, third.id) == ("a.jsonl:1.0", "a.jsonl:1.1", "a.jsonl:1.2")
    assert isinstance(second, Dropped) and second.reason == "empty answer"
    assert isinstance(third, Example) and third.data["prompt"][0]["content"] == "do\n\nx"


def test_made_chats_turn_back_into_text() -> None:
    (example,) = convert({"system": "s", "question": "1+1?", "answer": "2"}, SFT)
    assert isinstance(example, Example) and example.plain
    assert plain_text(example.data) == {"prompt": "s\n\n1+1?\n\n", "completion": "2"}
    (chat,) = convert({"prompt": [U], "completion": [A]}, SFT)
    assert isinstance(chat, Example) and not chat.plain


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": " \n"}, "empty text"),
        ({"text": None}, "empty text"),
        ({"text": float("nan")}, "empty text"),
        ({"prompt": "p", "completion": ""}, "empty answer"),
        ({"prompt": "p", "completion": None}, "empty answer"),
        ({"prompt": "", "completion": "c"}, "empty prompt"),
        ({"prompt": [U], "completion": []}, "empty answer"),
        ({"question": "q", "answer": " "}, "empty answer"),
        ({"messages": []}, "empty chat"),
        ({"messages": [U, {"role": "assistant", "content": " "}]}, "empty answer"),
        ({"messages": [U, {"role": "assistant", "content": None}]}, "empty answer"),
        ({"messages": [{"role": "user", "content": ""}, A]}, "empty prompt"),
        ({"instruction": "do", "instances": []}, "no instances"),
    ],
)
def test_empty_rows_are_dropped_with_a_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons(row, *SFT) == [reason]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": 3}, "text: must be text, not a number; put it in quotes"),
        ({"prompt": "p", "completion": ["a"]}, "completion: must be text, not a list"),
        ({"question": "q", "answer": 4}, "answer: must be text, not a number; put it in quotes"),
        ({"messages": "hi"}, "messages: must be a list, not text"),
        ({"messages": ["hi"]}, "messages: message 1 must be an object with role and content, not text"),
        (
            {"messages": [{"role": "usr", "content": "hi"}]},
            "messages: 'usr' in message 1 is not a role; known: …; did you mean user?",
        ),
        (
            {"messages": [U, {"role": "gpt", "content": "hi"}]},
            "messages: 'gpt' in message 2 is not a role; known: …; write assistant",
        ),
        (
            {"messages": [{"role": "function", "content": "hi"}]},
            "messages: 'function' in message 1 is not a role; known: …; write tool (OpenAI's old name)",
        ),
        ({"messages": [{"role": 1, "content": "hi"}]}, "messages: the role of message 1 must be text, not a number"),
        (
            {"messages": [{"rol": "user", "content": "hi"}]},
            "messages: message 1 has no role, only rol, content; rename rol to role",
        ),
        (
            {"messages": [{"role": "user", "contents": "hi"}]},
            "messages: message 1 has no content; rename contents to content",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages: the content of message 1 must be text, not a number",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages: the content of message 1 holds a part of type 'image_url'; only text parts are supported",
        ),
        (
            {"messages": [U, {"role": "assistant", "content": "", "tool_calls": "f"}]},
            "messages: tool_calls of message 2 must be a list, not text",
        ),
        (
            {"conversations": [{"from": "alien", "value": "hi"}]},
            "conversations: 'alien' in message 1 is not a role; known: …",
        ),
        (
            {"conversations": [{"from": "function_call", "value": "nope"}]},
            "conversations: the function_call of message 1 is not valid JSON",
        ),
        ({"prompt": [U], "completion": [U]}, "completion: has no turn of the assistant"),
        ({"messages": [U, A], "tools": "f"}, "tools: must be a list, not text"),
        (
            {"instruction": "do", "instances": [{"output": 3}]},
            "instances: output of instance 1 must be text, not a number; put it in quotes",
        ),
    ],
)
def test_wrong_rows_name_line_and_column(row: dict[str, Any], wanted: str) -> None:
    known = f"known: {', '.join(ROLES)}"
    assert refused(row, *SFT).replace(known, "known: …") == f"a.jsonl:1: {wanted}"


def test_a_row_of_another_kind_in_the_middle_is_refused() -> None:
    message = refused([{"messages": [U, A]}] * 60 + [{"body": "hm"}], *SFT)
    assert message == "a.jsonl:61: a row without messages, unlike those before it; its columns: body"


# ------------------------------------------------------------------ prompts, labels


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "p", "answer": 3}, {"prompt": "p", "answer": 3}),
        ({"prompt": [U], "solution": "x", "tools": "[]"}, {"prompt": [U], "solution": "x"}),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:", "k": 1}, {"prompt": [U], "k": 1}),
        ({"question": "hi", "answer": "#### 72"}, {"prompt": [U], "answer": "#### 72"}),
        ({"instruction": "hi", "input": "", "output": "x"}, {"prompt": [U], "output": "x"}),
        ({"messages": [U, A], "level": 2}, {"prompt": [U], "level": 2}),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "x"}]}, {"prompt": [U]}),
    ],
)
def test_prompts_keep_every_other_column(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert one(row, "prompt_only") == wanted


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": "t", "label": "spam"}, {"text": "t", "label": "spam"}),
        ({"sentence": "", "label": 0, "idx": 3}, {"text": "", "label": 0}),
        ({"text": "t", "labels": ["a", "b"]}, {"text": "t", "label": ["a", "b"]}),
        ({"text": "t", "label": 3.5}, {"text": "t", "label": 3.5}),
        (
            {"tokens": ["a", "b"], "ner_tags": ["O", "I-PER"], "pos_tags": [1, 2]},
            {"tokens": ["a", "b"], "tags": ["O", "I-PER"]},
        ),
        ({"tokens": '["a"]', "tags": "[1]"}, {"tokens": ["a"], "tags": [1]}),
    ],
)
def test_labelled_layouts(row: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert one(row, "labelled") == wanted


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"text": "t", "label": None}, "a.jsonl:1: label: no label"),
        ({"text": "t", "label": ""}, "a.jsonl:1: label: no label"),
        ({"text": 4, "label": "x"}, "a.jsonl:1: text: must be text, not a number"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, "a.jsonl:1: tags: 2 tags for 1 tokens"),
        ({"tokens": [1], "tags": ["O"]}, "a.jsonl:1: tokens: holds a number where a token's text must be"),
    ],
)
def test_wrong_labels_are_refused(row: dict[str, Any], wanted: str) -> None:
    assert refused(row, "labelled") == wanted


# ------------------------------------------------------------------ mapping and forcing


def test_columns_map_our_words_to_theirs() -> None:
    row = {"frage": "hi", "antwort": "hello", "prompt": "not this"}
    mapped = {"prompt": "frage", "completion": "antwort"}
    assert one(row, *SFT, columns=mapped) == {"prompt": "hi", "completion": "hello"}
    assert one(row, *SFT, columns={"question": "frage", "answer": "antwort"}) == {"prompt": [U], "completion": [A]}
    assert one({**row, "messages": [U, A]}, *SFT, columns=mapped) == {"prompt": "hi", "completion": "hello"}
    assert refused({**row, "antwort": 3}, *SFT, columns=mapped).startswith("a.jsonl:1: antwort: must be text")
    message = refused(row, *SFT, columns={"prompt": "frag", "completion": "antwort"})
    assert message == "columns.prompt: no column frag; columns found: frage, antwort, prompt; did you mean frage?"
    message = refused({"text": "t", "kind": "x"}, *SFT, columns={"label": "kind"})
    assert message.startswith("columns.label: the layout text takes no label; it takes text")


def test_layouts_can_be_forced() -> None:
    row = {"text": "\n\nHuman: hi\n\nAssistant: hello"}
    assert one(row, *SFT, layout="text") == row
    assert refused(row, *SFT, layout="hh_transcrit").endswith("did you mean hh_transcript?")
    assert "preference gives preference data, but this needs" in refused(row, *SFT, layout="preference")
    message = refused(row, *SFT, layout="alpaca")
    assert (
        "alpaca needs instruction, output; columns found: text; map them: columns: {instruction: …, output: …}"
        in message
    )


def test_columns_that_fit_nothing_say_what_would() -> None:
    message = refused({"promt": "p", "completion": "c"}, *SFT)
    assert message == (
        "path: columns promt, completion of a.jsonl fit no shape that this takes: "
        "language_modeling (messages, or text); "
        "prompt_completion (prompt + completion); name them: columns: {prompt: promt}"
    )
    assert "they are preference data, layout preference" in refused(
        {"prompt": "", "chosen": "", "rejected": ""}, "labelled"
    )
