"""`task: judge` in a run's evaluation, against a real endpoint: the baseline, the data's answers, another run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import Endpoint, answers

import alignkit
from alignkit import api
from alignkit.errors import RunFailed, UserError

ROWS = 12


def longer(question: str) -> str:
    first, second = answers(question)
    return "Verdict: tie" if len(first) == len(second) else f"Verdict: {'A' if len(first) > len(second) else 'B'}"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    made.reply = longer
    yield made
    made.server.shutdown()


@pytest.fixture
def run(
    endpoint: Endpoint, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> Callable[..., dict[tuple[str, str, str], dict[str, Any]]]:
    monkeypatch.chdir(tmp_path)

    def run(command: str = "train", output_dir: str = "run", seed: int = 42, **judge: Any) -> dict[Any, Any]:
        where = {"model": "a-judge", "base_url": endpoint.url, "retries": 0, "concurrency": 2}
        task = {
            "name": "judged",
            "task": "judge",
            "data": {"generate": "addition", "options": {"rows": ROWS, "split": "test"}},
            "generation": {"max_new_tokens": 6, "do_sample": True},
            "judge": {**where, **judge},
        }
        recipe = {**tiny_recipe, "evaluation": [task], "output_dir": output_dir, "seed": seed}
        loaded = alignkit.load_recipe(write_recipe(recipe))
        alignkit.train(loaded) if command == "train" else api.evaluate(loaded)
        scores = json.loads(Path(output_dir, "evaluation", "scores.json").read_text())
        return {(score["model"], score["metric"]): score for score in scores}

    return run


def lines(name: str = "run") -> list[dict[str, Any]]:
    path = Path(name, "evaluation", "samples.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_tuned_model_against_its_baseline(run: Any, endpoint: Endpoint, capsys: Any) -> None:
    scores = run()
    assert endpoint.asked == 2 * ROWS
    won = scores["tuned", "win_rate"]
    assert won["n"] == ROWS and won["ci95"][0] <= won["value"] <= won["ci95"][1]
    assert scores["tuned", "length_controlled_win_rate"]["n"] == ROWS
    assert scores["tuned", "position_share"]["value"] == 0.0 == scores["tuned", "unjudged_share"]["value"]
    assert ("baseline", "win_rate") not in scores and ("baseline", "empty_share") in scores
    tuned = {line["id"]: line for line in lines() if line["model"] == "tuned"}
    base = {line["id"]: line for line in lines() if line["model"] == "baseline"}
    assert len(tuned) == len(base) == ROWS
    for name, line in tuned.items():
        mine, theirs = len(line["prediction"]), len(base[name]["prediction"])
        assert line["metrics"]["win_rate"] == (0.5 if mine == theirs else float(mine > theirs))
        assert line["references"] == [base[name]["prediction"]]
    assert won["value"] == pytest.approx(sum(one["metrics"]["win_rate"] for one in tuned.values()) / ROWS)
    again = run("eval")  # nothing is generated or asked again
    assert endpoint.asked == 2 * ROWS and again == scores
    endpoint.reply = lambda _: "Verdict: A"  # another judge is asked anew, and one whom position decides is told apart
    biased = run("eval", model="another-judge")
    assert endpoint.asked == 4 * ROWS
    assert biased["tuned", "win_rate"]["value"] == 0.5 and biased["tuned", "position_share"]["value"] == 1.0


def test_the_datas_own_answers_and_another_run(run: Any, endpoint: Endpoint) -> None:
    scores = run(against="reference")
    assert ("baseline", "win_rate") in scores and ("tuned", "win_rate") in scores
    run(output_dir="other", seed=7, against_run="run")
    judged = {one["id"]: one for one in lines("other") if one["model"] == "tuned"}
    ours = {one["id"]: one["prediction"] for one in lines("run") if one["model"] == "tuned"}
    assert {name: one["references"] for name, one in judged.items()} == {name: [text] for name, text in ours.items()}
    mirrored = [one["metrics"]["win_rate"] for one in judged.values()]
    assert set(mirrored) <= {0.0, 0.5, 1.0} and len(mirrored) == ROWS


def test_what_the_judge_does_not_say_is_counted_and_asked_again(run: Any, endpoint: Endpoint) -> None:
    def unwell(question: str) -> str | int:
        number = int(re.findall(r"<request>\D*(\d+)", question)[0])
        return 500 if number % 4 == 0 else longer(question)

    endpoint.reply = unwell
    scores = run()
    share = scores["tuned", "unjudged_share"]["value"]
    assert 0 < share < 0.5 and scores["tuned", "win_rate"]["n"] == round(ROWS * (1 - share))
    assert f"unjudged:{round(ROWS * share)}" in scores["tuned", "win_rate"]["signature"]
    asked, endpoint.reply = endpoint.asked, longer
    assert run("eval")["tuned", "win_rate"]["n"] == ROWS
    assert endpoint.asked == asked + 2 * round(ROWS * share)
    endpoint.reply = lambda _: "I like both."
    with pytest.raises(RunFailed, match=r"no two verdicts on 12 of 12 answers .*without a verdict"):
        run("eval", model="a-talker")


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url: must be the endpoint's address"),
        ({"base_url": "http://me:secret@localhost/v1"}, "base_url: holds a token, a URL with a password"),
        ({"against": "reference", "against_run": "x"}, "keep one of the two"),
        ({"api_key_env": "NO_SUCH_KEY"}, "api_key_env: the environment has no NO_SUCH_KEY"),
        ({"prompt_path": "none.txt"}, "prompt_path: there is no file"),
        ({"against_run": "nowhere"}, "against_run: there is no file"),
    ],
)
def test_what_is_wrong_is_said_before_training(run: Any, judge: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(**judge)
    assert not Path("run").exists()


def test_no_key_is_written_anywhere(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-quite-secret")
    run(api_key_env="JUDGE_KEY")
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"sk-quite-secret" in p.read_bytes()]
