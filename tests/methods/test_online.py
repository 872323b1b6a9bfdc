"""GRPO and RLOO with the real trainers on tiny models: exact resume, order, alarms, and what is watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignkit import api

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}


@pytest.fixture
def recipe(tiny_recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Seven steps of GRPO on a tiny random Llama: two epochs of prompts."""
    return {
        **tiny_recipe,
        "method": "grpo",
        "output_dir": str(tmp_path / "run"),
        "data": {
            "train": [{"generate": "addition", "options": {"rows": 8}}],
            "eval": [{"generate": "addition", "options": {"rows": 6, "split": "test"}}],
        },
        "rewards": [
            {"name": "exact_match"},
            {"name": "length", "options": {"max": 3, "soft": 6}, "weight": 0.5},
        ],
        "training": {
            "max_steps": 7,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 6,
            "learning_rate": 1.0e-2,
            "logging_steps": 1,
            "save_steps": 3,
        },
    }


def train(recipe: dict[str, Any], **changes: Any) -> Any:
    return api.train(api.load_recipe({**recipe, **changes}), overwrite=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_random_weights_are_their_own_reference(recipe: dict[str, Any], method: str) -> None:
    """They have no name that TRL could load a reference by."""
    training = {**recipe["training"], "max_steps": 2, "beta": 0.1, "num_generations": 1 if method == "ppo" else 4}
    run = train(recipe, method=method, training=training)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    kl = [line["kl"] for line in lines if "kl" in line]
    assert kl and abs(kl[0]) < 1e-4


@pytest.mark.parametrize(
    ("method", "training", "adapter"),
    [
        ("grpo", {}, None),
        ("grpo", {"steps_per_generation": 2, "num_iterations": 2}, None),
        ("grpo", {"difficulty_sampling": True, "gradient_accumulation_steps": 2, "beta": 0.1}, LORA),
        ("rloo", {"steps_per_generation": 2, "beta": 0.0}, None),
    ],
    ids=["second-epoch", "rollouts-reused", "difficulty-lora-kl", "rloo"],
)
def test_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path, method, training, adapter):
    """From checkpoint 3 and from checkpoint 6, each to step 7: weights, metrics and samples."""
    recipe |= {"method": method, "adapter": adapter, "training": {**recipe["training"], **training}}
    whole = train(recipe)
    lines = [_timeless(line) for line in whole.metrics()]
    final, samples = weights(whole.model_dir), (whole.path / "samples.jsonl").read_text()
    start = weights(whole.checkpoints_dir / "checkpoint-3")
    assert not same(start, final)
    for kept in (6, 3):
        for step in range(kept + 1, 8):
            _remove(whole.checkpoints_dir / f"checkpoint-{step}")
        _remove(whole.model_dir)
        whole.update_manifest({"result": None})
        manifest = whole.manifest
        manifest.pop("result")
        (whole.path / "manifest.json").write_text(json.dumps(manifest))
        whole.write_state("interrupted", resume="")
        again = api.train(api.load_recipe(recipe), resume=True)
        assert same(weights(again.model_dir), final), f"from checkpoint {kept}"
        assert (again.path / "samples.jsonl").read_text() == samples
        assert [_timeless(line) for line in again.metrics()] == lines


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    timed = ("runtime", "per_second", "step_time", "wait_s")
    return {key: value for key, value in line.items() if not key.endswith(timed)}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
