"""Preference layouts, and the real data sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from examples_rows import A2, SFT, A, U, convert, one, reasons, refused

from alignkit.examples import Dropped, Example, read_source
from alignkit.examples.messages import join_transcript, split_transcript
from alignkit.recipe.sections import Source

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ("p", "a", "b")),
        ({"prompt": [U], "chosen": [A], "rejected": [A2]}, ([U], [A], [A2])),
        ({"prompt": "hi", "chosen": [A], "rejected": [A2]}, ([U], [A], [A2])),
        ({"prompt": [U], "chosen": "hello", "rejected": "go away"}, ([U], [A], [A2])),
        ({"prompt": "hi", "chosen": [U, A], "rejected": [U, A2], "messages": [U, A]}, ([U], [A], [A2])),
        ({"chosen": [U, A], "rejected": [U, A2]}, ([U], [A], [A2])),
        ({"chosen": [U, A, U, A], "rejected": [U, A, U, A2]}, ([U, A, U], [A], [A2])),
        ({"chosen": [U, A, U, A], "rejected": [U, A2]}, ([U], [A, U, A], [A2])),
        ({"chosen": [U, A, U, A], "rejected": [U, A]}, ([U], [A, U, A], [A])),
        (
            {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"},
            ([U], [A], [A2]),
        ),
        ({"chosen": "say: yesterday", "rejected": "say: yes please"}, ("say:", " yesterday", " yes please")),
        ({"question": "hi", "chosen": "hello", "rejected": "go away"}, ([U], [A], [A2])),
        ({"question": "hi", "response_j": "hello", "response_k": "go away"}, ([U], [A], [A2])),
        ({"history": "hi", "human_ref_A": "go away", "human_ref_B": "hello", "labels": 0}, ([U], [A], [A2])),
        ({"conversation_a": [U, A2], "conversation_b": [U, A], "winner": "model_b"}, ([U], [A], [A2])),
    ],
)
def test_preference_layouts(row: dict[str, Any], wanted: tuple[Any, Any, Any]) -> None:
    assert one(row, "preference") == dict(zip(("prompt", "chosen", "rejected"), wanted, strict=True))


def test_margins_and_scores_are_kept() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 8, "score_rejected": "2.5", "margin": 5.5}
    assert one(row, "preference") == {**row, "score_chosen": 8.0, "score_rejected": 2.5}
    assert "margin: must be a number, not 'big'" in refused({**row, "margin": "big"}, "preference")


@pytest.mark.parametrize(
    ("row", "pairs"),
    [
        ({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}, [("b", "a"), ("c", "a"), ("b", "c")]),
        ({"question": "p", "answers": ["a", "b"], "ranks": [2, 1]}, [("b", "a")]),
        (
            {
                "instruction": "p",
                "completions": [{"response": "a", "overall_score": 1}, {"response": "b", "overall_score": 2}],
            },
            [("b", "a")],
        ),
        ({"prompt": "p", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}, [("a", "b")]),
    ],
)
def test_ranked_lists_become_pairs(row: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    found = [item.data for item in convert(row, ("preference",)) if isinstance(item, Example)]
    assert [(data["chosen"][0]["content"], data["rejected"][0]["content"]) for data in found] == pairs


def test_ranked_lists_drop_ties_and_keep_scores() -> None:
    row = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 1, 2]}
    assert reasons(row, "preference") == ["equal grades", "kept", "kept"]
    kept = [item.data for item in convert(row, ("preference",)) if isinstance(item, Example)]
    assert (kept[0]["score_chosen"], kept[0]["score_rejected"]) == (2.0, 1.0)
    assert "scores: 2 values for 3 answers" in refused({**row, "scores": [1, 2]}, "preference")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "identical answers"),
        ({"prompt": "p", "chosen": "a b", "rejected": "a  b\n"}, "answers differ only in white space"),
        ({"prompt": "p", "chosen": "a", "rejected": " "}, "empty answer"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"chosen": [U, A], "rejected": [U, A]}, "identical answers"),
        (
            {"chosen": [U, A], "rejected": [U, {"role": "assistant", "content": "hello "}]},
            "answers differ only in white space",
        ),
        ({"chosen": [U, A], "rejected": [U, {"role": "assistant", "content": ""}]}, "empty answer"),
        ({"question": "q", "response_j": "a", "response_k": "a"}, "identical answers"),
        ({"conversation_a": [U, A], "conversation_b": [U, A2], "winner": "tie"}, "a tie"),
    ],
)
def test_useless_pairs_are_dropped_with_a_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons(row, "preference") == [reason]


# ------------------------------------------------------------------ real data


def real(path: str, *shapes: str) -> tuple[str, list[Example | Dropped]]:
    if not SHARED.is_dir():
        pytest.skip("the shared data are not on this machine")
    layout, items = read_source(Source(path=path), SHARED, shapes)
    return layout.name, list(items)


@pytest.mark.parametrize(
    ("path", "shapes", "layout", "count"),
    [
        ("self_instruct/seed_tasks.jsonl", SFT, "self_instruct", 175),
        ("self_instruct/user_oriented_instructions.jsonl", SFT, "self_instruct", 252),
        ("gsm8k/train_2000.jsonl", SFT, "question_answer", 2000),
        ("gsm8k/test.jsonl", ("prompt_only",), "question_prompt", 1319),
        ("sms_spam", ("labelled",), "labelled", 5574),
        ("wikigold", ("labelled",), "tagged", 1696),
        ("stack_exchange_paired_tiny", ("preference",), "stack_exchange", 25),
    ],
)
def test_real_data(path: str, shapes: tuple[str, ...], layout: str, count: int) -> None:
    name, items = real(path, *shapes)
    assert (name, len(items)) == (layout, count)
    assert all(isinstance(item, Example) for item in items)


def test_every_hh_transcript_is_split_with_nothing_lost() -> None:
    name, items = real("hh_rlhf_harmless/harmless_base_test_1500.jsonl", "preference")
    assert name == "implicit_preference" and len(items) == 1500
    counts = Counter(item.reason if isinstance(item, Dropped) else "kept" for item in items)
    assert counts == {"kept": 1496, "empty answer": 4}
    for item in items:
        assert item.row is not None
        if isinstance(item, Example):
            for side in ("chosen", "rejected"):
                assert join_transcript(item.data["prompt"] + item.data[side]) == item.row.data[side]
                assert item.data[side][0]["role"] == "assistant"
            assert item.data["prompt"][-1]["role"] == "user"
        else:  # dropped, but split as exactly
            for side in ("chosen", "rejected"):
                assert join_transcript(split_transcript(item.row.data[side], side)) == item.row.data[side]
