"""A GRPO step of alignkit against the plain TRL script with the same settings, and what makes generation faster.

    python benchmarks/grpo_step.py --rounds 3

Everything runs in this process, in turn, and times are of the CPU (`time.process_time`): the machine may be shared. The
worker process of an isolated reward is not in them; what asking it costs the trainer is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from common import SHARED, median, table
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from alignkit.rewards.call import Answer
from alignkit.rewards.isolation import Isolated
from alignkit.rewards.mixture import Mixture, Reward
from alignkit.trainers import completing
from alignkit.trainers.attention import attending_by_products
from alignkit.trainers.online import online

STORIES = SHARED / "stories260K"
REWARD = "def stops(completions, **kwargs):\n    return [float(text.count('.')) for text in completions]\n"


# ---------------------------------------------------------------------- a step
class Clock(TrainerCallback):
    """CPU seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self.began = time.process_time()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self.began)


def questions(number: int) -> list[str]:
    lines = (SHARED / "gsm8k" / "train_2000.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines[:number]]


def config(folder: Path, steps: int) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=32, num_generations=8, max_completion_length=48,
        max_steps=steps, learning_rate=1e-5, beta=0.0, bf16=False, use_cpu=True, report_to=[], save_strategy="no",
        logging_steps=steps, gradient_checkpointing=False, disable_tqdm=True, num_generations_eval=1,
        remove_unused_columns=False,
    )  # fmt: skip


def step_times(kind: str, folder: Path, steps: int) -> list[float]:
    """CPU seconds of each step but the first."""
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokenizer.pad_token = tokenizer.unk_token
    model, clock = AutoModelForCausalLM.from_pretrained(STORIES), Clock()
    common = {"model": model, "args": config(folder, steps), "processing_class": tokenizer, "callbacks": [clock]}
    scope: dict[str, Any] = {}
    exec(REWARD, scope)
    if kind == "TRL script":
        data = Dataset.from_list([{"prompt": text} for text in questions(64)])
        GRPOTrainer(reward_funcs=scope["stops"], train_dataset=data, **common).train()
        return clock.seconds[1:]
    scorer: Any = lambda call: Answer([float(text.count(".")) for text in call.completions])  # noqa: E731
    if kind.endswith("isolated"):
        file = folder / "stops.py"
        file.write_text(REWARD)
        spec = {"kind": "file", "file": f"{file}:stops", "options": {}, "column": None}
        scorer = Isolated(spec, 60.0, 0.25, None)
        scorer.require()
    rewards = Mixture([Reward("stops", 1.0, scorer)])
    rows = [
        {"prompt_ids": tokenizer(text)["input_ids"], "row": json.dumps({"prompt": text}), "example_id": str(number)}
        for number, text in enumerate(questions(64))
    ]
    trainer: Any = online(GRPOTrainer)(train_dataset=Dataset.from_list(rows), rewards=rewards, **common)
    with attending_by_products(model):
        trainer.train()
    rewards.close()
    return clock.seconds[1:]


def steps_table(rounds: int, steps: int) -> str:
    kinds = ("TRL script", "alignkit, reward in the process", "alignkit, reward isolated")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for kind in kinds:
                found[kind].append(median(step_times(kind, Path(folder), steps)))
    base, plain = (median(found[kind]) for kind in kinds[:2])
    lines = [
        [kind, f"{median(found[kind]):.3f}", f"{median(found[kind]) / base:.2f}",
         f"{median(found[kind]) / plain - 1:+.1%}" if kind != kinds[0] else ""] for kind in kinds
    ]  # fmt: skip
    return table(["step", "CPU s", "of TRL's", "against the reward in the process"], lines)


# ---------------------------------------------------------------------- generation
def generation_table(rounds: int) -> str:
    tokenizer, model = AutoTokenizer.from_pretrained(STORIES), AutoModelForCausalLM.from_pretrained(STORIES).eval()
    prompts = [tokenizer(text)["input_ids"] for text in questions(8) for _ in range(8)]
    dots = tuple(number for token, number in tokenizer.get_vocab().items() if token.strip("▁") == ".")
    lines = []
    for name, stops in (("all rows full length", (1,)), ("rows end at a full stop", (1, *dots))):
        ways = ways_to_generate(model, prompts, stops)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for round_ in range(rounds + 1):
            for way, run in ways.items():
                began = time.process_time()
                run()
                if round_:  # the first warms up
                    found[way].append(time.process_time() - began)
        base = median(found["generate"])
        lines += [[name, way, f"{median(times):.2f}", f"{base / median(times):.2f}×"] for way, times in found.items()]
    return table(["64 completions of 8 prompts, up to 96 tokens", "way", "CPU s", "faster by"], lines)


def ways_to_generate(model: Any, prompts: list[list[int]], stops: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    ids, mask = completing._left_padded(prompts, 0, torch.device("cpu"))
    sampling = completing.Sampling(96, stops, 0)
    fields = {"max_new_tokens": 96, "do_sample": True, "top_k": 0, "eos_token_id": list(stops), "pad_token_id": 0}

    @torch.no_grad()
    def generate(**more: Any) -> Any:
        config = GenerationConfig(**fields, **more, disable_compile=True)
        return model.generate(input_ids=ids, attention_mask=mask, generation_config=config)

    @contextlib.contextmanager
    def dropping(share: float) -> Any:
        kept, completing.DROPPED_AT = completing.DROPPED_AT, share
        try:
            yield
        finally:
            completing.DROPPED_AT = kept

    mixed = [prompts[place] for start in range(8) for place in range(start, len(prompts), 8)]  # neighbours differ

    def ours(rows: list[list[int]], share: float) -> Any:
        with dropping(share):
            return completing.sample(model, rows, sampling)

    return {
        "generate": generate,
        "generate, static cache": lambda: generate(cache_implementation="static"),
        "own loop": lambda: ours(mixed, 2.0),
        "own loop, prompts shared": lambda: ours(prompts, 2.0),
        "own loop, prompts shared, ended rows dropped": lambda: ours(prompts, completing.DROPPED_AT),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", choices=["step", "generation"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only != "generation":
        print(steps_table(options.rounds, options.steps) + "\n", flush=True)
    if options.only != "step":
        print(generation_table(options.rounds), flush=True)


if __name__ == "__main__":
    main()
