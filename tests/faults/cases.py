"""The runs that faults are tried on: each method, small enough that a process's start is most of its time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.classifiers import texts, tiny_bert
from tests.llamas import tiny_llama

STEPS = 12
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
SUMS = {"generate": "addition", "options": {"rows": 40}}
PAIRS = {"generate": "preferences", "options": {"rows": 40}}
ONLINE = {
    "global_batch_size": 8,
    "per_device_train_batch_size": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
}
REWARDS = [{"name": "regex", "options": {"pattern": "[a-m]"}}, {"name": "length", "options": {"max": 3, "soft": 6}}]


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipes by name; the models and files that they name are written to `folder`."""
    llama, bert = tiny_llama(folder / "llama", width=64, positions=128), tiny_bert(folder / "bert")
    rows = folder / "texts.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts(40)))

    def recipe(method: str, train: list[dict[str, Any]], model: Path = llama, **sections: Any) -> dict[str, Any]:
        training = {"per_device_train_batch_size": 4, "global_batch_size": 8, "learning_rate": 1e-3, "max_length": 48}
        if method in ("grpo", "ppo"):
            training = dict(ONLINE)
        values: dict[str, Any] = {
            "method": method,
            "output_dir": "run",
            "model": {"model_name_or_path": str(model), "dtype": "float32"},
            "data": {"train": train, **sections.pop("data", {})},
        }
        return {**values, **sections, "training": {**training, "max_steps": STEPS, **sections.get("training", {})}}

    grpo = {"num_generations": 2, "num_iterations": 2, "steps_per_generation": 2, "difficulty_sampling": True}
    return {
        "classify": recipe("classify", [{"path": str(rows)}], bert, data={"eval_fraction": 0.2}),
        "sft, packed": recipe("sft", [SUMS], training={"packing": True}),
        "sft, streaming": recipe("sft", [SUMS], data={"streaming": True}),
        "sft, LoRA": recipe("sft", [SUMS], adapter=LORA),
        "sft, QLoRA": recipe("sft", [SUMS], adapter=LORA, quantization={"load_in_4bit": True}),
        "reward": recipe("reward", [PAIRS], data={"eval_fraction": 0.2}),
        "dpo": recipe("dpo", [PAIRS], data={"eval_fraction": 0.2}),
        "grpo": recipe("grpo", [SUMS], rewards=REWARDS, training=grpo),
        "ppo": recipe("ppo", [SUMS], rewards=REWARDS, training={"num_iterations": 2}),
    }
