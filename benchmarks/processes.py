"""Two CPU processes of one thread each against one process of two threads: tokens per second of the same SFT run.

    python benchmarks/processes.py --rounds 3 --steps 30

Run in turn, on a 5M-parameter Llama and real rows; both take the same global batch, so the losses must agree.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import BIN, SHARED, environment, median, rows, small_llama, table, write_jsonl

RECIPE = """\
method: sft
output_dir: {output}
model: {{model_name_or_path: {model}}}
data: {{train: [{{path: {train}}}]}}
training: {{max_steps: {steps}, learning_rate: 5.0e-4, global_batch_size: 8, per_device_train_batch_size: 4,
           logging_steps: 1, save_strategy: "no"}}
"""
WAYS = {"one process, two threads": [], "two processes, one thread each": ["--accelerate", "cpu"]}


def run(work: Path, words: list[str]) -> tuple[float, float]:
    """(tokens/s, last loss)"""
    shutil.rmtree(work / "run", ignore_errors=True)
    command = [BIN / "alignkit", "sft", work / "recipe.yaml", *words]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads((work / "run" / "manifest.json").read_text())["result"]
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    return result["tokens"] / result["train_time_s"], [line["loss"] for line in lines if "loss" in line][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        examples = rows(options.data)
        train = write_jsonl(work / "data" / "train.jsonl", examples)
        model = small_llama(work / "model", [row["prompt"] + row["completion"] for row in examples])
        recipe = RECIPE.format(output=work / "run", model=model, train=train, steps=options.steps)
        (work / "recipe.yaml").write_text(recipe)
        rates: dict[str, list[float]] = {name: [] for name in WAYS}
        losses: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, words in WAYS.items():
                rate, losses[name] = run(work, words)
                rates[name].append(rate)
        one, two = rates.values()
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        lines = [(name, f"{median(values):,.0f}", f"{losses[name]:.5f}") for name, values in rates.items()]
        print(table(("processes", "tokens/s (median)", "last loss"), lines))
        print(f"\nratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


if __name__ == "__main__":
    main()
