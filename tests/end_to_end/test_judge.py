"""`alignkit judge` against an endpoint that is honest, biased, talks nonsense, fails and stalls; nothing is lost."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import Endpoint, shorter

import alignkit
from alignkit import api
from alignkit.errors import RunFailed, UserError
from alignkit.judge import decide, verdict_of

ROWS = [{"prompt": f"{n}+{n}=", "chosen": str(2 * n), "rejected": f"it is {2 * n}"} for n in range(12)]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.server.shutdown()


@pytest.fixture
def judge(endpoint: Endpoint, write_jsonl: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(rows: list[Any] = ROWS, **sections: Any) -> dict[str, Any]:
        recipe = {
            "method": "judge",
            "output_dir": str(tmp_path / "judged"),
            "model": {"model_name_or_path": "a-judge"},
            "endpoint": {"base_url": endpoint.url, "retries": 0, "request_timeout": 1.0, "concurrency": 2},
            "data": {"train": str(write_jsonl(rows))},
            **sections,
        }
        return api.judge(alignkit.load_recipe(recipe))

    return run


def written(tmp_path: Path, name: str = "preferences") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "judged" / f"{name}.jsonl").read_text().splitlines()]


def test_an_honest_judge_gives_preferences(judge: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS[:3]]
    summary = judge([*turned, *ROWS[3:]])
    assert endpoint.asked == 24 and summary["preferences"] == 12
    assert summary["agreement_rate"]["value"] == 1.0 and summary["agrees_with_data"]["value"] == 0.75
    assert summary["first_position_rate"]["value"] == 0.5
    assert [row["chosen"] for row in written(tmp_path)] == [str(2 * n) for n in range(12)]
    again = judge([*turned, *ROWS[3:]])  # nothing is asked twice
    assert endpoint.asked == 24 and again == summary
    recipe = {"method": "dpo", "output_dir": "x", "model": {"model_name_or_path": "a/b"}}
    loaded = alignkit.load_recipe({**recipe, "data": {"train": str(tmp_path / "judged" / "preferences.jsonl")}})
    assert next(iter(api.recognised(loaded, ("preference",))))[2].name == "preference"


def test_where_position_decides_the_pair_is_dropped_or_a_tie(judge: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda _: "Verdict: A"
    summary = judge()
    assert summary["preferences"] == 0 and summary["position_decided"] == 12
    assert summary["agreement_rate"]["value"] == 0.0 and summary["first_position_rate"]["value"] == 1.0
    assert not written(tmp_path, "ties")
    judge(when_unsure="tie")
    assert [row["why"] for row in written(tmp_path, "ties")] == ["position"] * 12


def test_failures_nonsense_and_stalls_lose_nothing(judge: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    """A third fails, a third is nonsense, the rest is kept; the next start asks only what is missing."""
    release = threading.Event()

    def unwell(question: str) -> str | int:
        number = int(re.findall(r"<request>\n(\d+)\+", question)[0])
        if number == 0:
            release.wait(3)  # longer than a request may take
        return 500 if number % 3 == 1 else "Both are fine. Verdict: A or B" if number % 3 == 2 else shorter(question)

    endpoint.reply = unwell
    with pytest.raises(RunFailed, match=r"18 of 24 comparisons have no readable verdict .*without a verdict"):
        judge()
    release.set()
    assert len(written(tmp_path)) == 3
    asked = endpoint.asked
    endpoint.reply = shorter
    assert judge()["preferences"] == 12 and endpoint.asked == asked + 18


def test_an_endpoint_that_is_gone_is_given_up(judge: Any, endpoint: Endpoint) -> None:
    endpoint.reply = lambda _: 503
    with pytest.raises(RunFailed, match="503"):
        judge([{**row, "prompt": f"{n} {row['prompt']}"} for n in range(10) for row in ROWS])
    assert endpoint.asked < 60


def test_a_line_that_a_kill_cut_short_is_asked_again(judge: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    judge()
    journal = tmp_path / "judged" / "judgements.jsonl"
    journal.write_text(journal.read_text()[:-20])
    assert judge()["preferences"] == 12 and endpoint.asked == 25
    assert judge()["preferences"] == 12 and endpoint.asked == 25


def test_another_prompt_is_another_question(judge: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    judge()
    (tmp_path / "mine.txt").write_text(
        "<answer_a>\n{first}\n</answer_a><answer_b>\n{second}\n</answer_b>{prompt} {odd}"
    )
    judge(prompt_path=str(tmp_path / "mine.txt"))
    assert endpoint.asked == 48
    (tmp_path / "mine.txt").write_text("{first}")
    with pytest.raises(UserError, match=r"lacks \{prompt\}, \{second\}"):
        judge(prompt_path=str(tmp_path / "mine.txt"))


def test_a_local_model_is_asked_and_its_nonsense_refused(judge: Any, tiny_model: Path) -> None:
    with pytest.raises(RunFailed, match="a reply without a verdict"):
        judge(ROWS[:2], model={"model_name_or_path": str(tiny_model)}, endpoint=None, generation={"max_new_tokens": 4})


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: A", "a"), ("verdict: b.", "b"), ("**Verdict: tie**", "tie"), ("Thinking …\nVerdict: B\n", "b"),
        ("A", None), ("Verdict: A or B", None), ("Verdict: A\nVerdict: B", None), ("The verdict: A", None), ("", None),
        (None, None),
    ],
)  # fmt: skip
def test_replies_are_read_strictly(reply: str | None, verdict: str | None) -> None:
    assert verdict_of(reply) == verdict


def test_two_orders_come_to_one_decision() -> None:
    assert [decide(*pair) for pair in (("a", "b"), ("b", "a"), ("tie", "tie"), ("a", "a"), ("a", "tie"))] == [
        "chosen", "rejected", "tie", "position", "position",
    ]  # fmt: skip
