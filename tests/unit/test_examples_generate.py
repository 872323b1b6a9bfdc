"""The built-in generators: right, repeatable, and with held-out problems that training never shows."""

from __future__ import annotations

import pytest

from alignkit.errors import UserError
from alignkit.examples import generated_rows


def test_addition_is_right_and_repeatable() -> None:
    rows = list(generated_rows("addition", {"rows": 500, "seed": 3}))
    assert rows == list(generated_rows("addition", {"rows": 500, "seed": 3}))
    assert rows != list(generated_rows("addition", {"rows": 500, "seed": 4}))
    for row in rows:
        (asked,), (said,) = row["prompt"], row["completion"]
        a, b = asked["content"].removesuffix("=").split("+")
        assert int(a) + int(b) == int(said["content"]) == row["answer"]
        assert (asked["role"], said["role"]) == ("user", "assistant")
    assert len({row["prompt"][0]["content"] for row in rows}) == 500


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_splits_share_no_problem_whatever_the_seed(digits: int) -> None:
    def problems(split: str, seed: int, rows: int) -> set[frozenset[str]]:
        options = {"rows": rows, "seed": seed, "split": split, "digits": digits, "style": "text"}
        return {frozenset(row["prompt"][:-1].split("+")) for row in generated_rows("addition", options)}

    few, many = (5, 60) if digits == 1 else (500, 5000)
    assert not problems("train", 0, many) & (problems("test", 0, few) | problems("test", 1, few))


def test_text_style() -> None:
    row = next(iter(generated_rows("addition", {"style": "text", "digits": 4, "rows": 1})))
    a, b = row["prompt"].removesuffix("=").split("+")
    assert row == {"prompt": f"{a}+{b}=", "completion": str(int(a) + int(b)), "answer": int(a) + int(b)}


def test_preferences_prefer_the_shorter_right_answer() -> None:
    for row in generated_rows("preferences", {"rows": 200, "style": "text"}):
        assert row["chosen"] == str(row["answer"]) and str(row["answer"]) in row["rejected"]
        assert len(row["chosen"]) < len(row["rejected"])


def test_sentiment_and_tags() -> None:
    reviews = list(generated_rows("sentiment", {"rows": 1000}))
    assert {row["label"] for row in reviews} == {"positive", "negative"}
    held_out = {row["text"] for row in generated_rows("sentiment", {"rows": 200, "split": "test"})}
    assert len(held_out) == 200 and not held_out & {row["text"] for row in reviews}
    for row in generated_rows("tags", {"rows": 300}):
        assert len(row["tokens"]) == len(row["tags"]) and set(row["tags"]) <= {"O", "B-PER", "I-PER", "B-LOC", "I-LOC"}
        assert "{" not in " ".join(row["tokens"])


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("adition", {}, "generate: no generator adition; known: addition,"),
        ("addition", {"row": 5}, "options.row: addition takes rows, seed, split, digits, style; did you mean rows?"),
        ("addition", {"digits": 0}, "options.digits: Input should be greater than or equal to 1, not 0"),
        ("addition", {"rows": "many"}, "options.rows: Input should be a valid integer, not 'many'"),
        ("addition", {"digits": 1, "rows": 101}, "options.rows: there are only"),
        ("sentiment", {"rows": 10**6}, "options.rows: sentiment makes at most"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        list(generated_rows(name, options))
    assert str(caught.value).startswith(wanted)
