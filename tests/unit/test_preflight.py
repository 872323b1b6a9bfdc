"""What is told before torch is imported, beyond models and data."""

from __future__ import annotations

import importlib
import importlib.util
import signal
from pathlib import Path
from typing import Any

import pytest

from alignkit import api, launch, preflight
from alignkit.errors import Interrupted, UserError

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "sft.yaml"


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    recipe = api.load_recipe(TINY, ["training.report_to=wandb"])
    with pytest.raises(UserError, match=r"training\.report_to: wandb is not installed; pip install wandb"):
        api.check(recipe)


def test_the_trackers_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    asked_of_the_environment = {"azure_ml", "kubeflow"}
    assert set(preflight.TRACKERS) == set(INTEGRATION_TO_CALLBACK) - asked_of_the_environment


def test_recipes_that_start_from_each_other(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        text = f"method: sft\noutput_dir: {tmp_path}/{name}\nmodel: {{from_recipe: {other}.yaml}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"{text}data: {{train: [{{generate: addition}}]}}\n")
    recipe = api.load_recipe(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"model\.from_recipe: goes round in a circle: a\.yaml -> b\.yaml -> a\.yaml"):
        launch.train(recipe)


def test_a_request_to_stop_while_the_libraries_load() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), launch._stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stop_while_the_libraries_load_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def stopped(name: str, package: str | None = None) -> object:
        if name == "alignkit.worker":
            signal.raise_signal(signal.SIGTERM)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", stopped)
    with pytest.raises(Interrupted, match="SIGTERM"):
        launch.train(api.load_recipe(TINY, [f"output_dir={tmp_path}/runs/x"]))
    assert not list(tmp_path.iterdir())


def test_check_says_how_each_source_is_read(write_jsonl, tiny_recipe) -> None:
    path = write_jsonl([{"instruction": "Add 1 and 2", "input": "", "output": "3"}])
    tiny_recipe["data"]["train"] = [{"path": str(path)}, {"generate": "addition"}]
    sources = api.check(api.load_recipe(tiny_recipe))
    assert sources == [
        ("data.train.0", str(path), "alpaca"),
        ("data.train.1", "generate:addition", "prompt_completion"),
    ]


def test_engines_that_are_not_installed_are_told_before_torch(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    training = {**tiny_recipe["training"], "use_vllm": True}
    training.pop("max_length")
    values = {**tiny_recipe, "method": "grpo", "rewards": [{"name": "exact_match"}], "training": training}
    told = [str(one) for one in preflight._engines(api.load_recipe(values))]
    assert told == ["training.use_vllm: vllm is not installed; pip install 'alignkit[vllm]', or leave it out"]
