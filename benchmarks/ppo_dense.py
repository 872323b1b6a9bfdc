"""Dense rewards against a terminal one: held-out exact match after so many samples, on the tiny sorting task.

    python benchmarks/ppo_dense.py --seeds 3

Both train recipes/tiny/ppo.yaml on eight digits instead of five, from a model whose demonstrations were careless four
times in five: it rarely gets a whole answer right. The terminal reward is 1 for the exact answer; the dense one gives
the same 1 in equal parts, one for each right digit in its place and one for stopping there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from common import BIN, environment, table

START = """\
extends: {folder}/sft_sorting.yaml
output_dir: runs/start
data: {{train: [{{generate: sorting, options: {{rows: 5000, slips: 0.8, digits: 8}}}}]}}
training: {{max_steps: 200}}
evaluation: []
"""
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "tiny" / "ppo.yaml"
DENSE = '''\
def credit(completions, completion_ids, answer, **_):
    """Each digit in its place, and stopping after the last, is worth 1 / (digits + 1)."""
    rows = []
    for text, ids, right in zip(completions, completion_ids, answer):
        text, right = text[0]["content"], str(right)
        row = [0.0] * len(ids)  # one character is one token; the stop token is none
        for place in range(len(ids)):
            stops = place == len(text) == len(right)
            hit = place < min(len(text), len(right)) and text[place] == right[place]
            row[place] = (hit or stops) / (len(right) + 1)
        rows.append(row)
    return rows
'''
REWARDS = {"terminal": "{name: exact_match}", "dense": "{file: dense.py:credit}"}


def curve(work: Path, kind: str, seed: int, steps: int, every: int) -> list[tuple[int, float]]:
    """(samples, held-out greedy exact match) at each evaluation of one run."""
    recipe = work / f"{kind}-{seed}.yaml"
    recipe.write_text(
        f"extends: {RECIPE}\nrewards: [{REWARDS[kind]}]\nseed: {seed}\noutput_dir: runs/{kind}-{seed}\n"
        "model: {from_recipe: start.yaml}\n"
        f"training: {{max_steps: {steps}, eval_steps: {every}, max_completion_length: 10}}\nevaluation: []\n"
        "data:\n  train: [{generate: sorting, options: {rows: 4000, split: train, digits: 8}}]\n"
        "  eval: [{generate: sorting, options: {rows: 200, split: test, seed: 1, digits: 8}}]\n"
    )
    command = [BIN / "alignkit", "ppo", recipe, "--overwrite"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=work, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    lines = (work / "runs" / f"{kind}-{seed}" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    # Two epochs of four minibatches of 64 use a rollout of 256 samples in 8 steps.
    return [(line["step"] // 8 * 256, line["eval_exact_match"]) for line in found if "eval_exact_match" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=32)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "dense.py").write_text(DENSE)
        (work / "start.yaml").write_text(START.format(folder=RECIPE.parent))
        curves = {
            kind: [curve(work, kind, seed, options.steps, options.every) for seed in range(options.seeds)]
            for kind in REWARDS
        }
    samples = [at for at, _ in curves["terminal"][0]]
    lines = [
        (kind, *(f"{statistics.mean(one[index][1] for one in found):.3f}" for index in range(len(samples))))
        for kind, found in curves.items()
    ]
    print(table(("reward", *(f"{at} samples" for at in samples)), lines))
    for kind, found in curves.items():
        print(f"\n{kind}, each seed at the end: {', '.join(f'{one[-1][1]:.3f}' for one in found)}")


if __name__ == "__main__":
    main()
