"""PPOTrainer against the last PPO that TRL had (trl 1.12.0, `trl.experimental.ppo`), and against GRPO.

    python -m venv /tmp/trl112 && /tmp/trl112/bin/pip install torch==2.13.0 && /tmp/trl112/bin/pip install trl==1.12.0
    python benchmarks/ppo_vs_trl.py --peer /tmp/trl112/bin/python --seeds 3

Each side is a process of its own, run in turn: the same small policy, reward and settings, the same number of samples
and of optimizer steps. The reward is the share of the 16 tokens that are an `a`: at first one in a hundred.
Peak memory is the process's largest resident set less what it held before training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LENGTH, ROLLOUT, MINIBATCHES, EPOCHS = 16, 128, 4, 4
SETTINGS = {
    "learning_rate": 5e-4, "lr_scheduler_type": "constant", "adam_epsilon": 1e-5, "temperature": 1.0, "gamma": 1.0,
    "lam": 0.95, "vf_coef": 0.1, "cliprange_value": 0.2, "missing_eos_penalty": None, "report_to": "none",
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip
PROMPTS = [f"{a}+{b}=" for a in range(40) for b in range(40)]


# ---------------------------------------------------------------------- one side, in its own process
def policy(folder: Path) -> tuple[Any, Any]:
    """A Llama of 0.8M parameters, the same from either side."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder, padding_side="left")


def share_of_a(completions: list[str], **_: Any) -> list[float]:
    return [text.count("a") / LENGTH for text in completions]


def ours(folder: Path, seed: int, updates: int, method: str, critic: str = "model") -> tuple[Any, list[float]]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from alignkit.trainers.ppo import PPOConfig, PPOTrainer

    model, tokenizer = policy(folder)
    common = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": ROLLOUT // MINIBATCHES, "seed": seed,
        "steps_per_generation": MINIBATCHES, "gradient_accumulation_steps": 1, "num_iterations": EPOCHS,
        "max_steps": updates * MINIBATCHES * EPOCHS, "max_completion_length": LENGTH, "beta": 0.05, "epsilon": 0.2,
        "max_grad_norm": 0.0,  # TRL's PPO clips no gradients
        "logging_steps": MINIBATCHES * EPOCHS,  # as often as it logs: once a rollout
    }  # fmt: skip
    own = ("gamma", "lam", "vf_coef", "cliprange_value", "missing_eos_penalty")
    shared = {name: value for name, value in SETTINGS.items() if method == "ppo" or name not in own}
    config = PPOConfig if method == "ppo" else GRPOConfig
    groups = {"critic_kind": critic} if method == "ppo" else {"num_generations": 4}
    trainer = (PPOTrainer if method == "ppo" else GRPOTrainer)(
        model,
        share_of_a,
        config(**common, **shared, **groups),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
    )
    return trainer, []


def peer(folder: Path, seed: int, updates: int) -> tuple[Any, list[float]]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.modeling_outputs import BaseModelOutput
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    model, tokenizer = policy(folder)
    letter = tokenizer.convert_tokens_to_ids("a")

    class Backbone(torch.nn.Module):
        """Its "hidden state" is the reward so far: TRL's PPO takes rewards from models only."""

        def forward(self, input_ids: Any, **_: Any) -> Any:
            return BaseModelOutput(hidden_states=((input_ids == letter).cumsum(1)[..., None] / LENGTH,))

    class Reward(torch.nn.Module):
        base_model_prefix = "backbone"

        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.score = Backbone(), torch.nn.Identity()

    rows = Dataset.from_dict({"input_ids": [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]})
    config = PPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=ROLLOUT, gradient_accumulation_steps=1, seed=seed,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=updates * ROLLOUT, response_length=LENGTH,
        kl_coef=0.05, cliprange=0.2, stop_token="eos", num_sample_generations=0,
        local_rollout_forward_batch_size=ROLLOUT, **SETTINGS,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=model, ref_model=AutoModelForCausalLM.from_pretrained(folder),
        reward_model=Reward(), train_dataset=rows,
        value_model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1),
    )  # fmt: skip
    scores: list[float] = []
    log = trainer.log
    trainer.log = lambda logs, *rest: (scores.append(logs["objective/scores"]), log(logs, *rest))  # type: ignore[assignment]
    return trainer, scores


def run_side(side: str, folder: Path, seed: int, updates: int) -> dict[str, Any]:
    if side == "trl":
        trainer, scores = peer(folder, seed, updates)
    else:
        method, _, critic = side.partition("-")
        trainer, scores = ours(folder, seed, updates, method, critic or "model")
    before = resident()
    # With one thread the processor's seconds are those that an idle machine would take, and do not count neighbours.
    began, worked = time.perf_counter(), time.process_time()
    with attention(side, trainer.model):
        trainer.train()
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    key = "reward" if side == "grpo" else "objective/scores"
    scores = scores or [line[key] for line in trainer.state.log_history if key in line]
    return {"seconds": seconds, "worked": worked, "samples": updates * ROLLOUT, "memory": peak, "scores": scores}


def attention(side: str, model: Any) -> Any:
    """What alignkit's commands wrap around training on a CPU."""
    if side == "trl":
        return contextlib.nullcontext()
    from alignkit.trainers.attention import attending_by_products

    return attending_by_products(model)


def resident() -> float:
    """MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# ---------------------------------------------------------------------- the comparison
def make_policy(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    import alignkit

    tokenizer = AutoTokenizer.from_pretrained(Path(alignkit.__file__).parent / "assets" / "tokenizers" / "characters")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measured(python: str, side: str, folder: Path, seed: int, updates: int) -> dict[str, Any]:
    command = [python, __file__, "--side", side, "--folder", folder, "--seed", str(seed), "--updates", str(updates)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1"}
    if side == "trl":
        environment.pop("PYTHONPATH", None)
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment with trl 1.12.0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20, help="rollouts of 128 samples")
    parser.add_argument("--side", choices=("ppo", "ppo-head", "grpo", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options.side, options.folder, options.seed, options.updates)))
        return
    sides = {"ppo": sys.executable, **({"trl": options.peer} if options.peer else {})}
    sides |= dict.fromkeys(("ppo-head", "grpo"), sys.executable)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        make_policy(Path(folder))
        for seed in range(options.seeds):
            for side, python in sides.items():
                found[side].append(measured(python, side, Path(folder), seed, options.updates))
                print(side, seed, json.dumps(found[side][-1]), file=sys.stderr)
    names = {
        "ppo": "alignkit PPO, a critic of its own", "trl": "trl 1.12.0 PPO (a critic of its own)",
        "ppo-head": "alignkit PPO, critic head", "grpo": "GRPO, groups of 4 (no critic)",
    }  # fmt: skip
    after = f"reward after {options.updates * ROLLOUT} samples"
    print(f"| | samples/s of processor time | peak memory over start, MiB | {after} |")
    print("| --- | --- | --- | --- |")
    for side, runs in found.items():
        rate = statistics.median(run["samples"] / run["worked"] for run in runs)
        memory = statistics.median(run["memory"] for run in runs)
        rewards = ", ".join(f"{statistics.mean(run['scores'][-3:]):.3f}" for run in runs)
        print(f"| {names[side]} | {rate:.1f} | {memory:.0f} | {rewards} |")
    for side in list(sides)[1:]:
        for clock, words in (("worked", "processor time"), ("seconds", "time on the clock")):
            ratios = [b[clock] / a[clock] for a, b in zip(found["ppo"], found[side], strict=True)]
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"\n{names[side]} took {shown} × the {words} of alignkit PPO with a critic of its own")


if __name__ == "__main__":
    main()
