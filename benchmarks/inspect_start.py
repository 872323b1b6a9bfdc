"""Seconds of `alignkit inspect` on 100,000 rows at its second start, above loading the tokenizer alone.

    python benchmarks/inspect_start.py --rounds 5

The rows are those of the training benchmarks, again and again with a number in front, so that none is like another.
Both commands run in turn; beside wall time stands CPU time, which other work on the machine stretches less.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import BIN, SHARED, environment, median, rows, small_llama, table, timed, write_jsonl

RECIPE = """\
method: sft
output_dir: {work}/run
model: {{model_name_or_path: {model}}}
data: {{train: {train}}}
training: {{max_steps: 1, max_length: 512}}
"""
LOAD = "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({model!r})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=SHARED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        some = rows(options.data)
        many = ({**row, "prompt": f"{number}. {row['prompt']}"} for number in range(options.rows)
                for row in [some[number % len(some)]])  # fmt: skip
        train = write_jsonl(work / "train.jsonl", many)
        model = small_llama(work / "model", [row["prompt"] + row["completion"] for row in some])
        (work / "recipe.yaml").write_text(RECIPE.format(work=work, model=model, train=train), encoding="utf-8")
        env = {**os.environ, **environment(), "ALIGNKIT_CACHE": str(work / "cache")}
        inspect = [str(BIN / "alignkit"), "inspect", str(work / "recipe.yaml")]
        load = [sys.executable, "-c", LOAD.format(model=str(model))]
        print(f"first start: {timed(inspect, env)[0]:.1f} s", file=sys.stderr)
        pairs = [(timed(load, env), timed(inspect, env)) for _ in range(options.rounds)]
    found = [
        ("the tokenizer alone", *(f"{median([one[0][place] for one in pairs]):.2f}" for place in (0, 1))),
        ("alignkit inspect", *(f"{median([one[1][place] for one in pairs]):.2f}" for place in (0, 1))),
        ("above it", *(f"{median([one[1][place] - one[0][place] for one in pairs]):.2f}" for place in (0, 1))),
    ]
    print(table(("command", "wall, s (median)", "CPU, s (median)"), found))


if __name__ == "__main__":
    main()
