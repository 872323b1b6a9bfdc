"""What alignkit's checkpoints (synced, sealed with checksums, renamed into place) cost beside transformers' own.

    python benchmarks/checkpoint_cost.py --rounds 3

Run in turn in one process each: the same trainer on the same 5M-parameter Llama and real rows, a checkpoint every 50
steps, saved once as transformers does it (in place, neither synced nor sealed) and once as alignkit does. What is
compared is the wall time within the saves, beside that of the steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SHARED, environment, median, rows, small_llama, table, write_jsonl

RECIPE = """\
method: sft
output_dir: {output}
model: {{model_name_or_path: {model}}}
data: {{train: [{{path: {train}}}]}}
training: {{max_steps: {steps}, learning_rate: 5.0e-4, save_steps: 50, save_total_limit: 2, logging_steps: 10}}
"""


def side(name: str, recipe: Path) -> None:
    """Train, and print (seconds of training, seconds within saves)."""
    from alignkit import api, launch

    launch.set_environment()
    from transformers import Trainer

    from alignkit.trainers.checkpoints import WholeCheckpoints

    if name == "transformers":
        WholeCheckpoints._save_checkpoint = Trainer._save_checkpoint  # type: ignore[method-assign]
    spent = {"saves": 0.0, "training": 0.0}
    save, train = WholeCheckpoints._save_checkpoint, Trainer.train

    def timed_save(self: WholeCheckpoints, *args: object) -> None:
        began = time.perf_counter()
        save(self, *args)  # type: ignore[arg-type]
        spent["saves"] += time.perf_counter() - began

    def timed_train(self: Trainer, *args: object, **kwargs: object) -> object:
        began = time.perf_counter()
        result = train(self, *args, **kwargs)  # type: ignore[arg-type]
        spent["training"] += time.perf_counter() - began
        return result

    WholeCheckpoints._save_checkpoint, Trainer.train = timed_save, timed_train  # type: ignore[method-assign, assignment]
    api.train(api.load_recipe(recipe), overwrite=True)
    print(json.dumps(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--side", choices=("transformers", "alignkit"), help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.recipe)
        return
    found: dict[str, list[dict[str, float]]] = {"transformers": [], "alignkit": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        every = rows(options.data)
        train = write_jsonl(work / "data" / "train.jsonl", every)
        model = small_llama(work / "model", [row["prompt"] + row["completion"] for row in every])
        recipe = work / "recipe.yaml"
        recipe.write_text(RECIPE.format(output=work / "run", model=model, train=train, steps=options.steps))
        for _ in range(options.rounds):
            for name in found:
                command = [sys.executable, __file__, "--side", name, "--recipe", recipe]
                done = subprocess.run(command, check=True, env=environment(), capture_output=True, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    lines = []
    for name, runs in found.items():
        training, saves = (median([run[key] for run in runs]) for key in ("training", "saves"))
        lines.append((name, f"{training:.1f}", f"{saves:.2f}", f"{saves / training:.1%}"))
    print(table(("saving as", "steps and saves, s", "within saves, s", "share"), lines))
    steps = [run["training"] - run["saves"] for runs in found.values() for run in runs]
    added = median([run["saves"] for run in found["alignkit"]]) - median(
        [run["saves"] for run in found["transformers"]]
    )
    share = f"{added / median(steps):.2%} of the steps' {median(steps):.1f} s"
    print(f"added by alignkit: {added:.2f} s, {share}; wanted below 5 %")


if __name__ == "__main__":
    main()
