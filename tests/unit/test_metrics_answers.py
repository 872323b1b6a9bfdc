"""Answers taken out of texts, and the metrics that compare them."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.metrics import answers
from alignkit.metrics.match import exact_match, numeric_match, token_f1

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k" / "test.jsonl"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 48 + 24 = 72.", "72"),
        ("that is $1,234.50 in all", "1234.50"),
        ("between 10-5", "5"),
        ("it is -5", "-5"),
        ("it is −5 degrees", "-5"),
        ("it is -$5", "-5"),
        ("it is $-5", "-5"),
        ("50% of them", "50"),
        ("about .75", ".75"),
        ("1,000,000", "1000000"),
        ("1, 2, 3", "3"),
        ("1,23", "23"),
        ("2e3 m", "2e3"),
        ("no number the5e", "5"),
        ("nothing", ""),
        ("", ""),
        ("x=3.", "3"),
        ("(7)", "7"),
        ("€ 9", "9"),
        ("a range of 3–4", "4"),
    ],
)
def test_last_number(text, number):
    assert answers.last_number(text) == number


def test_first_number():
    assert answers.first_number("from 1,200 to 3") == "1200"


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (r"thus \boxed{72}", "72"),
        (r"\boxed{1} and then \boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed{\text{a}_{b_{c}}} done", r"\text{a}_{b_{c}}"),
        (r"\fbox{8}", "8"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} but \boxed{never closed", "5"),
        ("none", ""),
    ],
)
def test_boxed(text, held):
    assert answers.boxed(text) == held


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("the answer is: **42**", "42"),
        ("First the answer is 1. But no, the final answer is 3.5. Done.", "3.5"),
        ("Answer: blue\nBecause.", "blue"),
        ("I do not know", ""),
        ("**Answer:** 7 apples", "7 apples"),
        ("The answer is\n\n12", "12"),
        ("The answer is $1,000.50.", "$1,000.50"),
    ],
)
def test_the_answer_is(text, answer):
    assert answers.the_answer_is(text) == answer


def test_extractors_by_name():
    assert answers.extractor("after:####")("a 5\n#### 72\nmore") == "72"
    assert answers.extractor(r"regex:x = (\d+)")("x = 1, x = 2") == "2"
    assert answers.extractor(r"regex:\d+")("1 then 23") == "23"
    assert answers.extractor("boxed")("none") == ""
    with pytest.raises(UserError, match="did you mean 'last_number'"):
        answers.extractor("lastnumber")
    with pytest.raises(UserError, match="not a regular expression"):
        answers.extractor("regex:(")
    with pytest.raises(UserError):
        answers.extractor("after:")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", Fraction(72)),
        ("1,234.50", Fraction("1234.5")),
        ("$5", Fraction(5)),
        ("50%", Fraction(50)),
        (r"50\%", Fraction(50)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\dfrac{1}{2}", Fraction(1, 2)),
        ("1e3", Fraction(1000)),
        ("1/0", None),
        ("x", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e999999999", None),
        ("1 2 3", Fraction(123)),
    ],
)
def test_to_number(text, value):
    assert answers.to_number(text) == value


def test_numeric_match_compares_values():
    predictions = ["so $1,000.00", "= 0.5", "3 of 4", "", "none", r"\boxed{0} of 5"]
    references = [["1000"], [r"#### 1/2"], ["3"], ["1"], ["1"], [r"\boxed{0}. There were 5"]]
    assert numeric_match(predictions[:2], references[:2]).items.tolist() == [1, 0]  # the last number of "1/2" is 2
    assert numeric_match(["0.5"], [["#### 1/2"]], answer="after:####").value == 0  # no "####" in the prediction
    assert numeric_match(["#### 0.5"], [["#### 1/2"]], answer="after:####").value == 1
    assert numeric_match(predictions[2:5], references[2:5]).items.tolist() == [0, 0, 0]
    assert numeric_match(predictions[5:], references[5:], answer="boxed").value == 1
    assert numeric_match(["3.14"], [["3.14159"]], tolerance=0.01).value == 1
    assert numeric_match(["3.0"], [["3.14159"]], tolerance=0.01).value == 0
    assert numeric_match(["", " "], [["1"], ["2"]]).empty == 2


def test_exact_match_and_its_options():
    assert exact_match([" Paris "], [["London", "Paris"]]).value == 1
    assert exact_match(["paris"], [["Paris"]]).value == 0
    assert exact_match(["The paris!"], [["Paris"]], ignore_case=True).value == 0
    every = {"ignore_case": True, "ignore_punctuation": True, "ignore_articles": True}
    measured = exact_match(["The paris!"], [["Paris"]], **every)
    assert measured.value == 1
    assert "ignore:cpa" in measured.signature
    assert exact_match(["", "a  b"], [[""], ["a b"]]).items.tolist() == [0, 1]
    assert exact_match(["so\n#### 72"], [["6*12 = 72\n#### 72"]], answer="after:####").value == 1
    assert exact_match(["so 72"], [["72"]], answer="after:####").value == 0


def test_token_f1_is_squads():
    assert token_f1(["the cat sat"], [["a cat sat down", "dog"]]).value == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1([""], [[""]]).value == 0
    assert token_f1(["x x y"], [["x y y"]]).value == pytest.approx(2 * 2 / 6)


def test_gsm8k_answers_are_found():
    if not GSM8K.exists():
        pytest.skip("the shared data is not here")
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    texts = [row["answer"] for row in rows]
    assert numeric_match(texts, [[text] for text in texts], answer="after:####").value == 1
    # In worked solutions the number after the marker is also the last number.
    assert numeric_match(texts, [[answers.after("####", text)] for text in texts]).value == 1
