"""A run's evaluation: tuned and baseline side by side, the eval split found again, a folder scored later."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.data import prepare_language_modeling
from alignkit.errors import UserError
from alignkit.evaluation import evaluate_target
from alignkit.recipe import EvaluationTask

TASKS = [
    {"name": "answers", "task": "generation", "metrics": ["exact_match"], "generation": {"max_new_tokens": 6}},
    {"name": "held_out", "task": "perplexity"},
    {
        "name": "other",
        "task": "perplexity",
        "data": {"generate": "addition", "options": {"rows": 9, "split": "test"}},
        "baseline": False,
    },
]
SHAPES = ("prompt_completion", "language_modeling")


def by_key(scores: list[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    return {(score["name"], score["model"], score["metric"]): score["value"] for score in scores}


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quiet(_: str) -> None: ...


def test_a_full_model_and_its_random_start(
    in_tmp: Path, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path]
) -> None:
    tiny_recipe["data"]["eval_fraction"] = 0.25
    recipe = alignkit.load_recipe(write_recipe({**tiny_recipe, "evaluation": TASKS}))
    alignkit.train(recipe)
    scores = json.loads((in_tmp / "run/evaluation/scores.json").read_text())
    found = by_key(scores)
    # The eval split is the trainer's own, and the baseline is where training began: the same losses.
    losses = [
        line["eval_loss"]
        for line in map(json.loads, (in_tmp / "run/metrics.jsonl").read_text().splitlines())
        if "eval_loss" in line
    ]
    assert math.log(found["held_out", "baseline", "perplexity"]) == pytest.approx(losses[0], rel=1e-4)
    assert math.log(found["held_out", "tuned", "perplexity"]) == pytest.approx(losses[-1], rel=1e-4)
    assert ("other", "tuned", "perplexity") in found and ("other", "baseline", "perplexity") not in found
    assert {score["n"] for score in scores if score["name"] != "other"} == {16}

    again = evaluate_target(
        recipe,
        out_dir=in_tmp / "later",
        prepare=lambda tokenizer: prepare_language_modeling(recipe, tokenizer, shapes=SHAPES, say=quiet),
        say=quiet,
    )
    assert by_key(again) == pytest.approx(found, rel=1e-5)


def test_an_adapter_is_switched_off_for_its_baseline(
    in_tmp: Path, tiny_recipe: dict[str, Any], tiny_model: Path, write_recipe: Callable[..., Path]
) -> None:
    task = {**TASKS[2], "baseline": True}
    changes = {
        "model": {"model_name_or_path": str(tiny_model), "dtype": "float32"},
        "adapter": {"r": 4, "target_modules": "all-linear"},
        "evaluation": [task],
    }
    recipe = alignkit.load_recipe(write_recipe({**tiny_recipe, **changes}))
    alignkit.train(recipe)
    found = by_key(json.loads((in_tmp / "run/evaluation/scores.json").read_text()))
    tuned, baseline = (found["other", model, "perplexity"] for model in ("tuned", "baseline"))
    assert tuned != baseline
    alone = {
        name: by_key(
            evaluate_target(name, tasks=[EvaluationTask.model_validate(task)], out_dir=in_tmp / "alone", say=quiet)
        )
        for name in (str(tiny_model), str(in_tmp / "run"))
    }
    assert alone[str(tiny_model)]["other", "tuned", "perplexity"] == pytest.approx(baseline, rel=1e-5)
    assert alone[str(in_tmp / "run")]["other", "tuned", "perplexity"] == pytest.approx(tuned, rel=1e-5)


def test_without_a_result_the_start_alone_is_scored(
    in_tmp: Path, tiny_recipe: dict[str, Any], tiny_model: Path, write_recipe: Callable[..., Path]
) -> None:
    changes = {"model": {"model_name_or_path": str(tiny_model)}, "evaluation": [TASKS[2]]}
    recipe = alignkit.load_recipe(write_recipe({**tiny_recipe, **changes}))
    scores = evaluate_target(recipe, say=quiet)
    assert {score["model"] for score in scores} == {"baseline"}
    assert (in_tmp / "run/evaluation/scores.json").exists()


def test_nothing_to_evaluate_is_refused(
    in_tmp: Path, tiny_recipe: dict[str, Any], tiny_model: Path, write_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate_target(alignkit.load_recipe(write_recipe(tiny_recipe)), say=quiet)
    with pytest.raises(UserError, match="what to evaluate"):
        evaluate_target(str(tiny_model), say=quiet)
