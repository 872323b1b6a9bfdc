"""Rows a second of `alignkit predict` against `transformers.pipeline` with its defaults, over the same file.

    python benchmarks/predict_throughput.py --model PATH/TO/CLASSIFIER --rounds 3

Run in turn, each a whole process; the seconds are those of answering, without loading. The answers are compared.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import BIN, SHARED, environment, median, table, write_jsonl

SCRIPT = """\
import json, sys, time
from transformers import pipeline
model, file, out = sys.argv[1:]
texts = [json.loads(line)["text"] for line in open(file, encoding="utf-8")]
answer = pipeline("text-classification", model=model)
began = time.perf_counter()
said = answer(texts, truncation=True)
print("SECONDS", time.perf_counter() - began)
json.dump(said, open(out, "w"))
"""


def run_alignkit(work: Path, model: Path, file: Path) -> tuple[float, list[str]]:
    out = work / "alignkit.jsonl"
    command = [BIN / "alignkit", "predict", model, file, "--out", out, "--overwrite"]
    done = subprocess.run(command, check=True, env=environment(), capture_output=True, text=True)
    seconds = float(re.findall(r"rows in ([\d.,]+) s", done.stderr)[-1].replace(",", ""))
    return seconds, [json.loads(line)["label"] for line in out.read_text(encoding="utf-8").splitlines()]


def run_pipeline(work: Path, model: Path, file: Path) -> tuple[float, list[str]]:
    out = work / "pipeline.json"
    command = [sys.executable, "-c", SCRIPT, str(model), str(file), str(out)]
    done = subprocess.run(command, check=True, env=environment(), capture_output=True, text=True)
    return float(done.stdout.rsplit("SECONDS", 1)[1]), [one["label"] for one in json.loads(out.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=SHARED / "sms_spam" / "sms_spam.jsonl")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()][: options.rows]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        file = write_jsonl(work / "rows.jsonl", [{"text": row["text"]} for row in rows])
        rates: dict[str, list[float]] = {"alignkit predict": [], "transformers.pipeline": []}
        said: dict[str, list[str]] = {}
        for _ in range(options.rounds):
            for name, run in (("alignkit predict", run_alignkit), ("transformers.pipeline", run_pipeline)):
                seconds, said[name] = run(work, options.model.absolute(), file)
                rates[name].append(len(rows) / seconds)
        alike = sum(a == b for a, b in zip(*said.values(), strict=True))
        ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
        print(table(("command", "rows/s (median)"), [(name, f"{median(r):,.1f}") for name, r in rates.items()]))
        print(f"\nratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")
        print(f"the same label for {alike:,} of {len(rows):,} rows")


if __name__ == "__main__":
    main()
