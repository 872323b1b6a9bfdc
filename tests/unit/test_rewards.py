"""Rewards, alone: what each built-in gives, and that no function can harm a run."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from alignkit import methods
from alignkit.errors import RunFailed, UserError
from alignkit.recipe import load_mapping
from alignkit.rewards import Call
from alignkit.rewards.build import build_rewards

FUNCTIONS = '''
import os, time
import numpy as np

def fair(prompts, completions, completion_ids, answer, trainer_state, **kwargs):
    assert trainer_state.global_step == 7
    return [np.float32(c == a) for c, a in zip(completions, answer)]

async def later(completions, bonus, **kwargs):
    return [bonus] * len(completions)

def logs(completions, log_extra, log_metric, **kwargs):
    print("printed by a user's function")
    log_extra("size", [len(c) for c in completions])
    log_metric("calls", 1)
    return [1.0] * len(completions)

def bad(prompts, completions, completion_ids, answer, **kwargs):
    kind = [a for a in answer]
    if "raise" in kind:
        raise ValueError("cannot score this")
    if "hang" in kind:
        time.sleep(60)
    if "exit" in kind:
        os._exit(3)
    if "short" in kind:
        return [1.0] * (len(kind) - 1)
    made = {"none": None, "nan": float("nan"), "inf": float("-inf"), "text": "good", "good": 1.0, "list": [1.0, 2.0],
            "steps": {1: 0.5}}
    return [made[k] for k in kind]

def ranks(completions, answer, **kwargs):
    """Compares the samples of a call."""
    if "raise" in answer:
        raise ValueError("no")
    return [len(c) / max(map(len, completions)) for c in completions]

def broken(completions, **kwargs):
    return [1.0] * (len(completions) + 1)
'''


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """rewards -> Mixture."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    made = []

    def build_(*rewards: dict[str, Any], token_level: bool = False) -> Any:
        recipe: Any = recipe_of(tmp_path, *rewards)
        made.append(build_rewards(recipe, token_level=token_level, log=tmp_path / "log.txt"))
        return made[-1]

    yield build_
    for mixture in made:
        mixture.close()


def recipe_of(folder: Path, *rewards: dict[str, Any], **training: Any) -> Any:
    mapping = {
        "method": "grpo",
        "output_dir": "run",
        "model": {"model_name_or_path": "some/model"},
        "data": {"train": [{"generate": "addition"}], "eval": [{"generate": "addition", "options": {"split": "test"}}]},
        "rewards": list(rewards),
        "training": training,
    }
    return load_mapping(mapping, methods.recipe_classes(), base_dir=folder)


def call(*completions: str, prompts: list[Any] | None = None, **columns: list[Any]) -> Call:
    return Call(
        prompts or ["1+1="] * len(completions),
        list(completions),
        [[1, 2, 3] for _ in completions],
        columns,
        {"global_step": 7, "max_steps": 9, "epoch": 0.0},
    )


def one(mixture: Any, asked: Call) -> list[float | None]:
    return mixture.score(asked)[0].values


# ---------------------------------------------------------------------- a user's function
def test_a_users_function_gets_what_trl_would_give_it(build, tmp_path):
    mixture = build(
        {"file": "functions.py:fair", "weight": 2.0},
        {"file": "functions.py:later", "options": {"bonus": 0.5}},
        {"file": "functions.py:logs"},
    )
    assert mixture.names == ["fair", "later", "logs"] and mixture.weights == [2.0, 1.0, 1.0]
    fair, later, logs = mixture.score(call("2", "3", answer=["2", "2"]))
    assert fair.values == [1.0, 0.0] and later.values == [0.5, 0.5]
    assert logs.answer.extra == [("size", [1, 1])] and logs.answer.metrics == [("calls", 1.0)]
    assert "printed by a user's function" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("kind", ["raise", "none", "nan", "inf", "text", "short", "list"])
def test_one_bad_sample_has_no_reward_and_is_shown(build, caplog, kind):
    mixture = build({"file": "functions.py:bad"})
    with caplog.at_level(logging.INFO, "alignkit.rewards"):
        answer = ["good", "good", kind, "good"]
        assert one(mixture, call("a", "b", "bad one", "d", answer=answer)) == [1.0, 1.0, None, 1.0]
    if kind != "none":  # None is a function's way to say that a sample is not its business
        assert "bad one" in caplog.text and "no reward" in caplog.text


@pytest.mark.parametrize("kind", ["hang", "exit"])
def test_a_function_that_hangs_or_dies_is_killed_and_started_anew(build, kind):
    mixture = build({"file": "functions.py:bad", "timeout": 1.0})
    began = time.monotonic()
    assert one(mixture, call("a", "b", "c", answer=["good", kind, "good"])) == [1.0, None, 1.0]
    assert one(mixture, call("a", answer=["good"])) == [1.0]
    assert time.monotonic() - began < 30


def test_good_samples_are_scored_together_after_a_bad_one_is_found(build):
    mixture = build({"file": "functions.py:ranks"})
    assert one(mixture, call("aa", "b", "aaaa", answer=["x", "raise", "x"])) == [0.5, None, 1.0]


def test_a_function_that_keeps_failing_stops_the_run_and_is_named(build):
    mixture = build({"file": "functions.py:bad"})
    with pytest.raises(RunFailed, match=r"reward bad \(functions.py:bad\).*cannot score this.*completion 'boom'"):
        mixture.score(call(*["boom"] * 12, answer=["raise"] * 12))


def test_a_function_of_the_wrong_length_stops_the_run(build):
    with pytest.raises(RunFailed, match="returned 2 rewards for 1 samples"):
        build({"file": "functions.py:broken"}).score(call(*["x"] * 8))


def test_rewards_for_each_token_only_where_they_can_be_used(build):
    asked = call("a", "b", "c", answer=["list", "steps", "good"])
    mixture = build({"file": "functions.py:bad", "max_failed": 1.0}, token_level=True)
    scored = mixture.score(asked)[0]
    assert scored.values == [None, 0.5, 1.0]  # two numbers for three tokens; half a point at token 1; one number
    assert scored.per_token == [None, [0.0, 0.5, 0.0], None]
    assert one(build({"file": "functions.py:bad", "max_failed": 1.0}), asked) == [None, None, 1.0]


def test_slow_rewards_run_side_by_side(build, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\ndef one(completions, **k):\n    time.sleep(1)\n    return [1.0] * len(completions)\ntwo = one\n"
    )
    mixture = build({"file": "slow.py:one"}, {"file": "slow.py:two"})
    began = time.monotonic()
    pending = mixture.start(call("a"))
    assert time.monotonic() - began < 0.5  # the trainer goes on
    assert [scored.values for scored in pending.wait()] == [[1.0], [1.0]]
    assert time.monotonic() - began < 1.9


def test_a_file_that_can_not_be_loaded_is_refused(build, tmp_path):
    (tmp_path / "worse.py").write_text("import no_such_module\ndef f(**kwargs): return []\n")
    with pytest.raises(UserError, match=r"rewards.0.file: can't be loaded: ModuleNotFoundError"):
        build({"file": "worse.py:f"})


# ---------------------------------------------------------------------- what recipes may say
@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        ({"name": "exact_mach"}, "did you mean exact_match"),
        ({"name": "exact_match", "options": {"ignore_cases": True}}, "did you mean ignore_case"),
        ({"name": "exact_match", "options": {"answer": "last_nmber"}}, "did you mean 'last_number'"),
        ({"name": "regex"}, "regex needs pattern"),
        ({"name": "regex", "options": {"pattern": "("}}, "not a regular expression"),
        ({"name": "length", "options": {"max": "20"}}, "expected a whole number or nothing, got '20'"),
        ({"name": "length", "options": {"max": 20}, "column": "answer"}, "compares with no column"),
        ({"name": "language", "options": {"expected": "xx"}}, "is one of ar"),
        ({"name": "code_tests"}, "no security boundary"),
        ({"name": "json_schema", "options": {"schema": {"type": "nonsense"}}}, "is no JSON Schema"),
        ({"file": "functions.py"}, "say functions.py:NAME"),
        ({"file": "function.py:fair"}, "there is no file"),
        ({"file": "functions.py:fare"}, "did you mean fair"),
        ({"judge": "gpt", "options": {}}, "base_url"),
        ({"judge": "gpt", "options": {"base_url": "http://x/v1", "api_key_env": "NO_SUCH"}}, "export NO_SUCH"),
        ({"name": "numeric", "model": "a/b"}, "one place"),
        ({"weight": 2.0}, "one place"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(tmp_path, reward, wanted):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    with pytest.raises(UserError, match=r"rewards\.0|rewards") as caught:
        recipe_of(tmp_path, reward)
    assert wanted in str(caught.value)


def test_a_recipe_keeps_its_rewards_from_any_folder(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    recipe = recipe_of(tmp_path, {"file": "functions.py:fair"})
    assert recipe.resolved()["rewards"][0]["file"] == f"{tmp_path}/functions.py:fair"
    again = load_mapping(recipe.resolved(), methods.recipe_classes(), base_dir="/")
    assert again == recipe


@pytest.mark.parametrize(
    ("training", "wanted"),
    [
        ({"num_generations": 3, "per_device_train_batch_size": 8}, "not whole groups"),
        ({"num_generations": 1}, "at least 2"),
        ({"num_generations_eval": 4}, "answered once, greedily"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps"}, "gives no loss"),
        ({"difficulty_sampling": True, "dataloader_num_workers": 2}, "need no workers"),
        ({"answer": "boxd"}, "did you mean 'boxed'"),
    ],
)
def test_training_fields_that_do_not_go_together(tmp_path, training, wanted):
    with pytest.raises(UserError) as caught:
        recipe_of(tmp_path, {"name": "exact_match"}, **training)
    assert wanted in str(caught.value)


def test_a_file_that_is_no_python_names_its_line_and_the_field(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef polite(:\n")
    with pytest.raises(UserError, match=r"broken.py:2: rewards.0.file: not valid Python: invalid syntax$"):
        recipe_of(tmp_path, {"file": "broken.py:polite"})
