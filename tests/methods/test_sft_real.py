"""SFT of a real pretrained model on real rows: full, LoRA and QLoRA learn, and load back without alignkit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import alignkit

ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": ADAPTER},
    "qlora": {"adapter": ADAPTER, "quantization": {"load_in_4bit": True}},
}
SOURCES = {"self_instruct": "self_instruct/seed_tasks.jsonl", "gsm8k": "gsm8k/train_2000.jsonl"}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_held_out_loss_falls_and_the_result_loads(
    variant: str, source: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = alignkit.load_recipe(
        {
            "method": "sft",
            "output_dir": str(tmp_path / "run"),
            "model": {"model_name_or_path": str(shared_data / "stories260K"), "dtype": "float32"},
            "data": {"train": [{"path": str(shared_data / SOURCES[source]), "max_rows": 160}], "eval_fraction": 0.1},
            "training": {
                "max_steps": 12,
                "global_batch_size": 8,
                "per_device_train_batch_size": 4,
                "learning_rate": 5e-3,
                "max_length": 256,
                "save_strategy": "no",
            },
            **VARIANTS[variant],
        }
    )
    run = alignkit.train(recipe)
    losses = [line["eval_loss"] for line in run.metrics() if "eval_loss" in line]
    assert losses[-1] < losses[0] - 0.1, losses
    assert run.state == "finished" and run.report_path.exists()

    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loader = AutoModelForCausalLM if variant == "full" else AutoPeftModelForCausalLM
    model = loader.from_pretrained(run.model_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    ids = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
    with torch.inference_mode():
        tuned = model(ids).logits
        start = AutoModelForCausalLM.from_pretrained(shared_data / "stories260K", dtype=torch.float32)(ids).logits
    assert torch.isfinite(tuned).all() and (tuned - start).abs().max() > 0.1


def test_packed_training_gives_the_eval_loss_of_rows_one_by_one(shared_data: Path, tmp_path: Path) -> None:
    """The same start, the same held-out rows: packed or not, their loss before training is the same number."""
    losses = []
    for packing in (False, True):
        recipe = alignkit.load_recipe(
            {
                "method": "sft",
                "output_dir": str(tmp_path / f"run-{packing}"),
                "model": {"model_name_or_path": str(shared_data / "stories260K"), "dtype": "float32"},
                "data": {
                    "train": [{"path": str(shared_data / SOURCES["gsm8k"]), "max_rows": 40}],
                    "eval": [{"path": str(shared_data / "gsm8k" / "test.jsonl"), "max_rows": 20}],
                },
                "training": {
                    "max_steps": 1,
                    "per_device_train_batch_size": 2,
                    "per_device_eval_batch_size": 3,
                    "max_length": 512,
                    "packing": packing,
                    "save_strategy": "no",
                },
            }
        )
        losses.append(alignkit.train(recipe).metrics()[0]["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
