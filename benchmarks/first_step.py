"""Seconds from the command to the end of the first optimizer step: `alignkit sft` against the shortest TRL script.

    python benchmarks/first_step.py --rounds 5

Both train the same small model for one step, in one process on the CPU. Whole-process times, run in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import BIN, SHARED, environment, median, rows, small_llama, table, write_jsonl

RECIPE = """\
method: sft
output_dir: {work}/run
model: {{model_name_or_path: {model}}}
data: {{train: [{{path: {train}}}]}}
training: {{max_steps: 1, save_strategy: "no"}}
"""

SCRIPT = """\
import time
from datasets import load_dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

class First(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("FIRST", time.time(), flush=True)

SFTTrainer(
    model="{model}",
    args=SFTConfig(
        output_dir="{work}/trl", max_steps=1, use_cpu=True, bf16=False, save_strategy="no", report_to="none"
    ),
    train_dataset=load_dataset("json", data_files="{train}", split="train"),
    callbacks=[First()],
).train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        some = rows(options.data)[: options.rows]
        train = write_jsonl(work / "data" / "train.jsonl", some)
        model = small_llama(work / "model", [row["prompt"] + row["completion"] for row in some])
        (work / "recipe.yaml").write_text(RECIPE.format(work=work, model=model, train=train))
        (work / "script.py").write_text(SCRIPT.format(work=work, model=model, train=train))
        first, cached, peer = [], [], []
        for _ in range(options.rounds):
            fresh = {
                **environment(),
                "ALIGNKIT_CACHE": str(work / "cache"),
                "HF_DATASETS_CACHE": str(work / "datasets"),
            }
            for store in ("cache", "datasets"):
                shutil.rmtree(work / store, ignore_errors=True)
            first.append(_alignkit(work, fresh))
            cached.append(_alignkit(work, fresh))
            peer.append(_trl(work, fresh))
        ratios = [a / b for a, b in zip(first, peer, strict=True)]
        lines = [("alignkit sft", f"{median(first):.2f}"), ("alignkit sft, data cached", f"{median(cached):.2f}")]
        print(table(("command", "first step after, s (median)"), [*lines, ("TRL script", f"{median(peer):.2f}")]))
        print(f"\nratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


def _alignkit(work: Path, env: dict[str, str]) -> float:
    shutil.rmtree(work / "run", ignore_errors=True)
    begun = time.time()
    subprocess.run([BIN / "alignkit", "sft", work / "recipe.yaml"], check=True, env=env, cwd=work, capture_output=True)
    return json.loads((work / "run" / "manifest.json").read_text())["result"]["first_step_at"] - begun


def _trl(work: Path, env: dict[str, str]) -> float:
    begun = time.time()
    done = subprocess.run(
        [sys.executable, work / "script.py"], check=True, env=env, cwd=work, capture_output=True, text=True
    )
    return float(done.stdout.split("FIRST ")[1].split()[0]) - begun


if __name__ == "__main__":
    main()
