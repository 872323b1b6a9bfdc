"""CPU seconds a step of `alignkit dpo` and of TRL's DPOTrainer with its defaults, on real pairs; and the loss.

    python benchmarks/dpo_step.py --rounds 3

Both train the same 5M-parameter Llama on the same HH-RLHF pairs, with the same batch size, learning rate and steps, in
turn. What differs is what each does by itself: TRL checkpoints activations, scores every position with the LM head on a
CPU, pads what chance brings together, and runs the reference beside the policy; alignkit does not checkpoint unless
told to, scores the answers alone, batches pairs of like length, attends by plain products on a CPU, and (last row)
computes the reference's log-probabilities once. `--same-order` feeds both the same batches, which shows the same loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SHARED, median, small_llama, table, write_jsonl

LEARNING_RATE = 1e-4
BATCH, LENGTH = 4, 512


def pairs(folder: Path) -> list[dict[str, str]]:
    """HH-RLHF transcripts as text: the shared beginning, and the two last answers."""
    made = []
    path = folder / "hh_rlhf_harmless" / "harmless_base_test_1500.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        head, mark, _ = row["chosen"].rpartition("\n\nAssistant:")
        if row["rejected"].startswith(head + mark):
            sides = {word: row[word][len(head + mark) :] for word in ("chosen", "rejected")}
            if all(side.strip() for side in sides.values()) and len(set(sides.values())) == 2:
                made.append({"prompt": head + mark, **sides})
    return made


def seconds_a_step(trainer: Any) -> tuple[float, list[float]]:
    """The mean CPU time of a step after the first, and the losses logged at each step.

    CPU time of the process, all threads together: what other processes take of a busy machine is not in it.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            self.times.append(time.process_time())

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1), losses


def with_trl(work: Path, model: Path, rows: list[dict[str, str]], steps: int, same_order: bool) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        output_dir=str(work / "trl"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
        max_length=LENGTH, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1,
        disable_tqdm=True, **({"train_sampling_strategy": "sequential"} if same_order else {}),
    )  # fmt: skip
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model), ref_model=None, args=arguments,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip


def with_alignkit(work: Path, model: Path, train: Path, steps: int, same_order: bool, **training: Any) -> Any:
    """The trainer that `alignkit dpo` builds, as the worker builds it."""
    import alignkit
    from alignkit import methods
    from alignkit.methods.base import Stage
    from alignkit.models import build_tokenizer, choose_precision
    from alignkit.runs import Run
    from alignkit.trainers import build_arguments

    if same_order:
        training["train_sampling_strategy"] = "sequential"
    recipe = alignkit.load_recipe(
        {
            "method": "dpo",
            "output_dir": str(work / "alignkit"),
            "model": {"model_name_or_path": str(model), "dtype": "float32"},
            "data": {"train": str(train)},
            "training": {
                "max_steps": steps,
                "per_device_train_batch_size": BATCH,
                "learning_rate": LEARNING_RATE,
                "max_length": LENGTH,
                "save_strategy": "no",
                "logging_steps": 1,
                **training,
            },
        }
    )
    method, precision = methods.get("dpo"), choose_precision(recipe)
    arguments = build_arguments(recipe, method.config_class(), work / "alignkit", precision, has_eval=False)
    stage = Stage(recipe, Run(recipe.output_dir), lambda _: None, precision, arguments)
    stage.tokenizer = build_tokenizer(recipe)
    stage.data = method.prepare(stage)
    stage.model = method.build_model(stage)
    return method.build_trainer(stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--same-order", action="store_true", help="the same batches for both: shows that the loss is one"
    )
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    from alignkit.trainers.attention import attending_by_products

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = pairs(options.data)
        train = write_jsonl(work / "data" / "train.jsonl", rows)
        model = small_llama(work / "model", [row["prompt"] + row["chosen"] for row in rows])
        found: dict[str, list[float]] = {}
        losses: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            kinds = ["TRL's defaults", "alignkit", "alignkit, precomputed reference"]
            for name in kinds[:2] if options.same_order else kinds:
                if name == kinds[0]:
                    trainer = with_trl(work, model, rows, options.steps, options.same_order)
                    seconds, losses[name] = seconds_a_step(trainer)
                else:
                    extra = {"precompute_ref_log_probs": True} if name == kinds[2] else {}
                    trainer = with_alignkit(work, model, train, options.steps, options.same_order, **extra)
                    with attending_by_products(trainer.model):
                        seconds, losses[name] = seconds_a_step(trainer)
                found.setdefault(name, []).append(seconds)
        first = found["TRL's defaults"]
        lines = [
            (
                name,
                f"{median(values):.2f}",
                f"{median([a / b for a, b in zip(first, values, strict=True)]):.2f}",
                f"{losses[name][0]:.4f} → {losses[name][-1]:.4f}",
            )
            for name, values in found.items()
        ]
        print(table(("trainer", "CPU s/step (median)", "times faster", "loss, first and last step"), lines))
        if options.same_order:
            apart = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
            print(f"\nlargest difference of the losses, step by step: {apart:.2g}")


if __name__ == "__main__":
    main()
