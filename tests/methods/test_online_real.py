"""GRPO on real rows and a real model: full, LoRA and QLoRA; reward models; failures through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.conftest import SHARED
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from alignkit import api
from alignkit.errors import RunFailed, UserError
from alignkit.rewards import Call
from alignkit.rewards.model import ModelReward

STORIES = SHARED / "stories260K"
needs_data = pytest.mark.skipif(not STORIES.exists(), reason="the data are not beside the project")
ADAPTER = {"r": 4, "lora_alpha": 8}
SHORT = {
    "max_steps": 1,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "save_strategy": "no",
    "logging_steps": 1,
}


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Two steps of GRPO on GSM8K, rewarded for full stops: the model knows stories and no sums."""
    (tmp_path / "stops.py").write_text(
        "def stops(completions, **kwargs):\n"
        "    return [min(str(c if isinstance(c, str) else c[0]['content']).count('.'), 3) / 3 for c in completions]\n"
    )
    return {
        "method": "grpo",
        "output_dir": str(tmp_path / "run"),
        "model": {"model_name_or_path": str(STORIES), "dtype": "float32"},
        "data": {"train": [{"path": str(SHARED / "gsm8k" / "train_2000.jsonl"), "max_rows": 16}]},
        "rewards": [
            {"name": "numeric", "options": {"answer": "last_number"}},
            {"file": f"{tmp_path}/stops.py:stops"},
        ],
        "training": {
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_prompt_length": 300,
            "max_completion_length": 24,
            "learning_rate": 1.0e-3,
            "lr_scheduler_type": "constant",
            "beta": 0.1,
            "logging_steps": 1,
            "save_strategy": "no",
        },
    }


def train(recipe: dict[str, Any], **changes: Any) -> Any:
    return api.train(api.load_recipe({**recipe, **changes}), overwrite=True)


@needs_data
@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
@pytest.mark.parametrize("method", ["grpo"])
def test_it_trains_near_its_start_and_the_result_loads(recipe, kind, method):
    changes: dict[str, Any] = {"full": {}, "lora": {"adapter": ADAPTER}}.get(kind, {"adapter": ADAPTER})
    if kind == "qlora":
        changes["quantization"] = {"load_in_4bit": True}
    run = train(recipe, method=method, **changes)
    lines = [line for line in run.metrics() if "loss" in line]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[1]["kl"] != 0  # the reference is the start
    assert {"rewards/numeric/mean", "rewards/stops/mean", "entropy", "clip_ratio/region_mean"} <= lines[0].keys()
    assert all(line["grad_norm"] > 0 for line in lines)
    model = AutoModelForCausalLM.from_pretrained(run.model_dir)
    start = AutoModelForCausalLM.from_pretrained(STORIES)
    ids = torch.tensor([[1, 300, 20]])
    assert not torch.equal(model(ids).logits, start(ids).logits)
    kinds = [json.loads(line)["kind"] for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert kinds == ["best", "worst"] * 2
    counts = run.manifest["data"]["train"]
    assert counts["examples"] + sum(counts["dropped"].values()) == 16


@needs_data
def test_rloo_and_a_named_reference(recipe, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    other = tmp_path / "other"
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(STORIES).save_pretrained(other)
    near = [line for line in train(recipe, method="rloo").metrics() if "loss" in line]
    assert near[0]["kl"] == pytest.approx(0, abs=1e-6)
    for adapter in (None, ADAPTER):
        lines = [line for line in train(recipe, reference=str(other), adapter=adapter).metrics() if "loss" in line]
        assert abs(lines[0]["kl"]) > 1e-4


@needs_data
def test_an_sft_adapter_is_its_own_reference(recipe, tmp_path):
    """Training goes on with the adapter, and the KL penalty is measured from where that began."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(STORIES), config)
    adapted.save_pretrained(tmp_path / "sft")
    AutoTokenizer.from_pretrained(STORIES).save_pretrained(tmp_path / "sft")
    run = train(recipe, model={"model_name_or_path": str(tmp_path / "sft"), "dtype": "float32"})
    lines = [line for line in run.metrics() if "loss" in line]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[1]["kl"] != 0
    assert (run.model_dir / "adapter_model.safetensors").is_file()


@needs_data
@pytest.mark.parametrize("loss", ["dapo", "cispo", "gspo"])
def test_losses_of_other_papers(recipe, loss):
    fields = {"loss_type": "grpo", "importance_sampling_level": "sequence"} if loss == "gspo" else {"loss_type": loss}
    recipe["training"] |= fields | {"max_steps": 1, "beta": 0.0}
    assert next(line for line in train(recipe).metrics() if "loss" in line)["grad_norm"] > 0


@needs_data
def test_a_prompt_that_leaves_no_room_is_refused_before_training(recipe):
    recipe["training"] |= {"max_completion_length": 400, "max_prompt_length": None}
    with pytest.raises(UserError, match=r"training\.max_prompt_length: 112"):
        train(recipe)


@needs_data
def test_a_reward_that_keeps_failing_ends_the_run_with_its_sample(recipe, tmp_path, cli, write_recipe):
    (tmp_path / "stops.py").write_text("def stops(completions, **kwargs):\n    raise KeyError('score')\n")
    done = cli("grpo", write_recipe(recipe))
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert re.search(r"reward stops .*stops.py:stops.* 8 of the last 8 .*KeyError: 'score'", error[0])
    assert "completion '" in error[0] and "reward-test" in error[0]


# ---------------------------------------------------------------------- reward models
@pytest.fixture
def reward_model(tmp_path: Path) -> Path:
    """A tiny classifier with one output, that knows another tokenizer than the policy."""
    if not STORIES.exists():
        pytest.skip("the data are not beside the project")
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                         vocab_size=len(tokenizer), num_labels=1, pad_token_id=0,
                         max_position_embeddings=64)  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    return tmp_path / "reward"


def test_a_reward_model_scores_alike_alone_and_in_a_batch(reward_model, tmp_path):
    score = ModelReward(str(reward_model), batch_size=4)
    call = Call(["Once"] * 6, [" upon" * n for n in (1, 9, 3, 200, 5, 2)], [[1]] * 6)
    together = score(call).values
    assert "the model reads 64" in together[3].reason
    for place in (0, 1, 2, 4, 5):
        assert score(call.only([place])).values[0] == pytest.approx(together[place], abs=1e-6)
    adapter = get_peft_model(score.model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(reward_model).save_pretrained(tmp_path / "adapter")
    lora = ModelReward(str(tmp_path / "adapter"))
    assert lora(call.only([0])).values[0] == pytest.approx(together[0], abs=1e-5)


def test_a_policy_is_trained_by_a_reward_model_of_another_tokenizer(tiny_recipe, reward_model, tmp_path):
    run = api.train(
        api.load_recipe(
            {
                **tiny_recipe,
                "method": "grpo",
                "output_dir": str(tmp_path / "run"),
                "rewards": [{"model": str(reward_model), "weight": 2.0}],
                "training": SHORT,
            }
        ),
        overwrite=True,
    )  # fmt: skip
    line = next(line for line in run.metrics() if "loss" in line)
    assert line["reward"] == pytest.approx(2 * line["rewards/reward/mean"], rel=1e-4) and line["reward_std"] > 0


@needs_data
def test_a_reward_that_hangs_at_the_end_of_a_run_does_not_hold_it(recipe, tmp_path):
    (tmp_path / "stops.py").write_text("import time\ndef stops(completions, **k):\n    time.sleep(60)\n")
    recipe["rewards"][1] |= {"timeout": 1.0, "max_failed": 0.0}
    with pytest.raises(RunFailed, match="longer than 1 s"):
        train(recipe)
