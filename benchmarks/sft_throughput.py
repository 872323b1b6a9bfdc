"""Real tokens per second of `alignkit sft` against `trl sft`, each with its defaults; and the held-out loss.

    python benchmarks/sft_throughput.py --rounds 3

Run in turn. Both train the same 5M-parameter Llama for one epoch over Self-Instruct and GSM8K rows, on the CPU, with
the same batch size and learning rate: what differs is what each command does by itself. Two defaults of `trl sft` would
say more of the machine than of it, and are set: its launcher gives the process one thread (both get all cores here),
and it computes in bfloat16 also where a CPU only emulates that, at a tenth of the speed (both compute in float32).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import BIN, SHARED, environment, held_out_loss, median, rows, small_llama, table, write_jsonl

LEARNING_RATE = 5e-4  # with the peers' own 2e-5 a random model would not move, and equal losses would say nothing

RECIPE = """\
method: sft
output_dir: {output}
model: {{model_name_or_path: {model}, dtype: float32}}
data: {{train: [{{path: {train}}}]}}
training: {{num_train_epochs: 1, learning_rate: {rate}, max_steps: {steps}, save_strategy: "no"}}
"""


def run_alignkit(work: Path, model: Path, train: Path, steps: int, env: dict[str, str]) -> tuple[float, Path]:
    output = work / "alignkit"
    shutil.rmtree(output, ignore_errors=True)
    recipe = work / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=output, model=model, train=train, rate=LEARNING_RATE, steps=steps))
    subprocess.run([BIN / "alignkit", "sft", recipe], check=True, env=env, stdout=subprocess.DEVNULL, cwd=work)
    result = json.loads((output / "manifest.json").read_text())["result"]
    return result["tokens"] / result["train_time_s"], output / "model"


def run_trl(work: Path, model: Path, train: Path, steps: int, env: dict[str, str]) -> tuple[float, Path]:
    output = work / "trl"
    shutil.rmtree(output, ignore_errors=True)
    command = [
        BIN / "trl", "sft", "--model_name_or_path", model, "--dataset_name", train.parent, "--output_dir", output,
        "--learning_rate", str(LEARNING_RATE), "--num_train_epochs", "1", "--max_steps", str(steps), "--use_cpu",
        "--report_to", "none", "--save_strategy", "no", "--bf16", "False",
    ]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=work, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    text = done.stdout + done.stderr
    seconds = float(re.findall(r"'train_runtime': '?([\d.]+)", text)[-1])
    tokens = max(float(value) for value in re.findall(r"'num_tokens': '?([\d.e+]+)", text))
    return tokens / seconds, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=-1, help="stop each run after this many steps (default: one epoch)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process (default: all cores)")
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    env = {**environment(), "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        every = rows(options.data)
        held_out, kept = every[::20], [row for index, row in enumerate(every) if index % 20]
        train = write_jsonl(work / "data" / "train.jsonl", kept)
        model = small_llama(work / "model", [row["prompt"] + row["completion"] for row in kept])
        rates: dict[str, list[float]] = {"alignkit sft": [], "trl sft": []}
        losses: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, run in (("alignkit sft", run_alignkit), ("trl sft", run_trl)):
                rate, result = run(work, model, train, options.steps, env)
                rates[name].append(rate)
                losses[name] = held_out_loss(result, model, held_out)
        ratios = [a / b for a, b in zip(rates["alignkit sft"], rates["trl sft"], strict=True)]
        lines = [(name, f"{median(values):,.0f}", f"{losses[name]:.4f}") for name, values in rates.items()]
        print(table(("command", "tokens/s (median)", "held-out loss"), lines))
        print(f"\nratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


if __name__ == "__main__":
    main()
