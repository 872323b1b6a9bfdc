"""Seconds of `alignkit plan` for an 8B and a 70B Llama with LoRA, beside importing TRL's trainer alone.

    python benchmarks/plan_speed.py --rounds 3

The commands run in turn; ratios are taken round by round. Wanted: 8B at most twice the import, 70B at most three times.
Where a GPU that is named is too small, what would make it fit is simulated too, which is several plans. Beside wall
time stands CPU time, which other work on the machine stretches less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import BIN, environment, median, table, timed

RECIPE = """\
method: sft
output_dir: run
model: {{model_name_or_path: {model}, dtype: bfloat16}}
adapter: {{r: 16, target_modules: all-linear}}
data: {{train: rows.jsonl}}
training: {{max_steps: 100, per_device_train_batch_size: 2, max_length: 2048, gradient_checkpointing: true}}
"""
MODELS = {"8B": "meta-llama/Llama-3.1-8B-Instruct", "70B": "meta-llama/Llama-3.1-70B-Instruct"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    commands = {"`from trl import SFTTrainer`": [sys.executable, "-c", "from trl import SFTTrainer"]}
    env = environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.jsonl").write_text('{"text": "a row"}\n', encoding="utf-8")
        for size, model in MODELS.items():
            (folder / f"{size}.yaml").write_text(RECIPE.format(model=model), encoding="utf-8")
            plan = [str(BIN / "alignkit"), "plan", f"{size}.yaml"]
            commands[f"`alignkit plan`, Llama-3.1-{size}, LoRA"] = plan
        commands["the last on one H100: what would make it fit, too"] = [*plan, "--gpu", "h100-80gb"]
        rounds = [[timed(command, env, folder) for command in commands.values()] for _ in range(options.rounds)]
    found = []
    for place, label in enumerate(commands):
        ratios = ", ".join(f"{one[place][0] / one[0][0]:.2f}" for one in rounds)
        found.append((label, *(f"{median([one[place][kind] for one in rounds]):.1f}" for kind in (0, 1)), ratios))
    print(table(("command", "wall, s (median)", "CPU, s (median)", "of the import, wall"), found))


if __name__ == "__main__":
    main()
