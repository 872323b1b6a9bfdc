"""Planned against measured: recipes of each method on a CPU, held against the profiler's record of the allocator.

    python benchmarks/plan_accuracy.py [NAME…]

The measure is no part of the planner: the recipe trains for real in a process of its own; what its tensors hold when
training begins is counted, then torch.profiler writes down each allocation of torch's CPU allocator, and the peak is
that of the running sum. (Loading is left out: it frees on threads that the profiler does not see.) Prints a table.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import environment, small_llama, table, write_jsonl

MEASURE = """
import gc, sys, torch, transformers
from alignkit import api, launch
launch.set_environment()
import alignkit.worker

def held():
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

def train(self, *args, original=transformers.Trainer.train, **kwargs):
    live = peak = held()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = original(self, *args, **kwargs)
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    print(peak)
    return result

transformers.Trainer.train = train
launch.train(api.load_recipe(sys.argv[1]), overwrite=True)
"""
FIVE_MILLION = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip
ENCODER = {
    "model_type": "bert", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 8, "max_position_embeddings": 128,
}  # fmt: skip
TINY = {**FIVE_MILLION, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TRAINING = {"max_steps": 10, "per_device_train_batch_size": 16, "logging_steps": 1, "save_strategy": "no"}


def base(method: str, rows: str, config: dict[str, Any], **training: Any) -> dict[str, Any]:
    model = {"init": "random", "dtype": "float32", "tokenizer_name_or_path": "alignkit:characters", "config": config}
    return {
        "method": method,
        "output_dir": "run",
        "model": copy.deepcopy(model),
        "data": {"train": [{"path": rows}]},
        "training": {**TRAINING, **training},
    }


def cases() -> dict[str, dict[str, Any]]:
    """Name -> recipe."""
    lora = {"r": 8, "target_modules": "all-linear"}
    correct = [{"name": "exact_match"}]
    online = {"num_generations": 4, "max_completion_length": 24}
    ppo = {"max_completion_length": 24, "beta": 0.05}
    classify = base("classify", "labelled.jsonl", ENCODER, max_length=64)
    classify["data"]["eval_fraction"] = 0.1
    small = {"model_name_or_path": "./small"}
    packed = {
        "model": small,
        "quantization": {"load_in_4bit": True},
        "adapter": lora,
    }
    return {
        "sft, tiny": base("sft", "texts.jsonl", TINY, max_length=64),
        "sft": base("sft", "texts.jsonl", FIVE_MILLION, max_length=64),
        "sft, packed": base("sft", "texts.jsonl", FIVE_MILLION, max_length=128, packing=True),
        "sft, LoRA, checkpointing, accumulation": base(
            "sft", "texts.jsonl", FIVE_MILLION, max_length=64, gradient_checkpointing=True, global_batch_size=32
        )
        | {"adapter": lora},
        "sft, QLoRA": {**base("sft", "texts.jsonl", {}, max_length=64), **packed},
        "classify": classify,
        "reward": base("reward", "pairs.jsonl", FIVE_MILLION, max_length=64),
        "dpo": base("dpo", "pairs.jsonl", FIVE_MILLION, max_length=64),
        "dpo, LoRA": base("dpo", "pairs.jsonl", FIVE_MILLION, max_length=64) | {"adapter": lora},
        "kto": base("kto", "pairs.jsonl", FIVE_MILLION, max_length=64),
        "grpo": base("grpo", "prompts.jsonl", {}, beta=0.04, **online) | {"rewards": correct, "model": small},
        "grpo, tiny": base("grpo", "prompts.jsonl", TINY, beta=0.0, **online) | {"rewards": correct},
        "ppo": base("ppo", "prompts.jsonl", FIVE_MILLION, **ppo) | {"rewards": correct},
        "ppo, tiny": base("ppo", "prompts.jsonl", TINY, **ppo) | {"rewards": correct},
    }


def write_rows(folder: Path) -> list[str]:
    """The recipes' data files; returns their texts."""
    sums = [(first, second) for first in range(10, 90, 4) for second in range(10, 90, 3)]
    asked = [f"{first}+{second}=" for first, second in sums]
    right = [str(first + second) for first, second in sums]
    pairs = list(zip(asked, right, strict=True))
    write_jsonl(folder / "texts.jsonl", [{"prompt": one * 3, "completion": other * 6} for one, other in pairs])
    write_jsonl(folder / "labelled.jsonl", [{"text": one * 6, "label": f"ends in {other[-1]}"} for one, other in pairs])
    wrong = [{"prompt": one, "chosen": other * 6, "rejected": other[::-1] + other * 7} for one, other in pairs]
    write_jsonl(folder / "pairs.jsonl", wrong)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": one, "answer": other} for one, other in pairs])
    return [one + other for one, other in pairs]


def planned(path: Path) -> dict[str, Any]:
    from alignkit import api

    return api.plan([path], gpu="cpu")[0]


def measured(path: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path.name],
        cwd=path.parent, env={**environment(), "ALIGNKIT_NO_PLAN": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def main(names: list[str]) -> None:
    import yaml

    lines = []
    with tempfile.TemporaryDirectory() as folder:
        texts = write_rows(Path(folder))
        small_llama(Path(folder) / "small", texts, vocabulary=512)
        for name, recipe in cases().items():
            if names and name not in names:
                continue
            path = Path(folder) / "recipe.yaml"
            path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
            plan, real = planned(path), measured(path)
            peak = plan["peak_memory_bytes"]
            row = [name, f"{plan['parameters'] / 1e6:.2f}M", f"{peak / 2**20:.2f}", f"{real / 2**20:.2f}"]
            lines.append([*row, f"{peak / real - 1:+.1%}", plan["moment"]])
            print(table(["recipe", "parameters", "planned MiB", "measured MiB", "off", "peak"], lines[-1:]), flush=True)
    print(table(["recipe", "parameters", "planned MiB", "measured MiB", "off", "peak"], lines))


if __name__ == "__main__":
    main(sys.argv[1:])
