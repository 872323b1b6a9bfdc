"""Reward models: from every start, with the head saved, and the same rewards through plain transformers and peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.test_dpo import ADAPTER, PAIRS, losses, sft_adapter, stop_after, weights
from tests.unit.test_data_pairs import bert_tokenizer

import alignkit
from alignkit import api
from alignkit.errors import Interrupted, RunFailed
from alignkit.evaluation.preference import calibration
from alignkit.runs import Run

__all__ = ["sft_adapter"]
Train = Callable[..., Run]


@pytest.fixture
def train(tmp_path: Path, tiny_model: Path) -> Train:
    """`train(model, **sections)`: a few steps of a reward model, in `tmp_path/run`."""

    def run(model: Path = tiny_model, resume: bool = False, **sections: Any) -> Run:
        training = {
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 8,
            "learning_rate": 1e-2,
            "max_length": 48,
            "logging_steps": 1,
            "save_steps": 3,
            **sections.pop("training", {}),
        }
        recipe = {
            "method": "reward",
            "output_dir": str(tmp_path / sections.pop("name", "run")),
            "model": {"model_name_or_path": str(model), "dtype": "float32"},
            "data": {"train": [PAIRS], "eval_fraction": 0.25},
            "training": training,
            **sections,
        }
        return alignkit.train(alignkit.load_recipe(recipe), resume=resume)

    return run


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random encoder, whose tokenizer has no EOS."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    made = bert_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(made), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": ADAPTER},
    "qlora": {"adapter": ADAPTER, "quantization": {"load_in_4bit": True}},
    "centred": {"training": {"center_rewards_coefficient": 0.01}},
}
FROM_ADAPTER: dict[str, dict[str, Any]] = {
    "goes_on": {},
    "goes_on_quantised": {"quantization": {"load_in_4bit": True}},
    "merged": {"adapter": {**ADAPTER, "on_top_of": "merge"}},
    "stacked": {"adapter": {**ADAPTER, "on_top_of": "stack"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reward_model_begins_at_zero_and_learns(train: Train, variant: str) -> None:
    run = train(**VARIANTS[variant])
    check(run, variant == "full" or variant == "centred", "quantization" in VARIANTS[variant])
    scores = {(score["model"], json.dumps(score.get("slice"))): score for score in run.scores()}
    assert scores["tuned", "null"]["metric"] == "preference_accuracy" and scores["tuned", "null"]["n"] == 12
    assert scores["longer_wins", "null"]["value"] == 0.0  # the shorter answer is preferred in these pairs
    (details,) = json.loads((run.evaluation_dir / "details.json").read_text())
    assert details["kind"] == "reward" and details["calibration"] and details["length_correlation"] is not None


@pytest.mark.parametrize("variant", FROM_ADAPTER)
def test_from_an_sft_adapter_the_head_is_new_and_saved(train: Train, sft_adapter: Path, variant: str) -> None:
    check(train(sft_adapter, **FROM_ADAPTER[variant]), False, "quantization" in FROM_ADAPTER[variant])


@pytest.mark.parametrize("adapter", [None, {"r": 4, "target_modules": ["query", "value"]}])
def test_an_encoder_without_eos(train: Train, tiny_bert: Path, write_jsonl: Callable[..., Path], adapter: Any) -> None:
    rows = [
        {"prompt": f"human {n} ", "chosen": "good " * (n % 5 + 1), "rejected": "bad " * (n % 7 + 1)} for n in range(48)
    ]
    sections = {"adapter": adapter} if adapter else {}
    run = train(tiny_bert, data={"train": [str(write_jsonl(rows))], "eval_fraction": 0.25}, **sections)
    check(run, adapter is None, False)


def check(run: Run, full: bool, quantised: bool) -> None:
    """Zero at first (every pair's loss is log 2), learned, and alike through plain transformers and peft."""
    found = losses(run)
    assert found[0] == pytest.approx(0.693147, abs=1e-5)
    assert found[-1] < found[0] - 0.0005, found
    if quantised:
        return  # loaded with the same quantization by the run itself: `finish` has compared them
    mine = plain_rewards(run.model_dir, full)
    assert mine[0] != pytest.approx(mine[1], abs=1e-4)
    from alignkit.evaluation.rewards import rewards_of
    from alignkit.models import load_result

    model, tokenizer = load_result(run.model_dir, head="sequence_classification")
    sequences = [tokenizer(text)["input_ids"] for text in ("good a", "bad b c d")]
    assert rewards_of(model, sequences, tokenizer.pad_token_id) == pytest.approx(mine, abs=1e-5)


def plain_rewards(folder: Path, full: bool) -> list[float]:
    """Two texts' rewards without alignkit."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if full:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model.config.pad_token_id = tokenizer.pad_token_id
        model = PeftModel.from_pretrained(model, folder)
    inputs = tokenizer(["good a", "bad b c d"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model.eval()(**inputs).logits[:, 0].tolist()


@pytest.mark.parametrize("sections", [{}, {"adapter": ADAPTER}], ids=["full", "lora"])
def test_a_head_that_is_not_saved_fails_the_run(
    train: Train, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenRLHF#1342 and trl#1379 met without a word."""
    from safetensors.torch import load_file, save_file

    from alignkit.trainers import ranks

    save = ranks.save_result

    def forgetful(model: Any, tokenizer: Any, folder: Path, **kwargs: Any) -> None:
        save(model, tokenizer, folder, **kwargs)
        path = next(folder.glob("*model.safetensors"))
        kept = {name: value for name, value in load_file(path).items() if "score" not in name}
        save_file(kept, path, metadata={"format": "pt"})

    monkeypatch.setattr(ranks, "save_result", forgetful)
    with pytest.raises(RunFailed, match="the saved reward model is not the trained one"):
        train(**sections)


def test_a_reward_model_goes_on_with_its_head(train: Train) -> None:
    first = train()
    again = train(first.model_dir, name="again")
    assert losses(again)[0] == pytest.approx(losses(first)[-1], abs=1e-4)


@pytest.mark.parametrize("sections", [{}, {"adapter": {**ADAPTER, "lora_dropout": 0.1}}], ids=["full", "lora"])
def test_an_interrupted_run_goes_on_exactly(
    train: Train, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(name="whole", **sections)
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(name="parts", **sections)
    monkeypatch.undo()
    one, other = (weights(run.model_dir) for run in (whole, train(name="parts", resume=True, **sections)))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_calibration_is_of_the_preferred_answer() -> None:
    import numpy as np

    (low, high) = calibration(np.array([0.1, -0.1, 3.0, 3.0, -3.0, 3.0]))
    assert low[0] == pytest.approx(0.525, abs=1e-3) and low[1:] == [0.5, 2]
    assert high[0] == pytest.approx(0.9526, abs=1e-3) and high[1:] == [0.75, 4]


@pytest.mark.parametrize("asked", [{}, {"baseline": True}])
def test_a_run_evaluated_later_leaves_the_same_baseline_out(train: Train, asked: dict[str, Any]) -> None:
    """Its own recipe.yaml gives every value, which once made a default look like a wish."""
    task = {"name": "held_out_pairs", "task": "preference", "batch_size": 4, **asked}
    run = train(evaluation=[task])
    again = api.evaluate(run.path)
    assert "baseline" not in {score["model"] for score in [*again, *run.scores()]}
