"""Every benchmark in turn, with bounded settings, in one table.

    python benchmarks/all.py [--only sft_throughput plan_accuracy …] [--model MINILM] [--classifier FOLDER]
                             [--peer PYTHON] [--out TABLE.md]

Each script runs as a process of its own, one after the other, and prints its own table; here the rows of all of them
stand in one: the benchmark, the row's first cell, and every other cell with its column's name. What needs a folder that
was not given is in the table too, as not run, and so is what failed (the end of its stderr goes to stderr). Takes an
hour or two on two idle cores; `make bench` calls it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from common import environment, table

HERE = Path(__file__).resolve().parent
HEADER = ["benchmark", "row", "figures"]


def commands(given: argparse.Namespace) -> dict[str, list[str] | str]:
    """Script -> its arguments, or what it lacks."""
    model = ["--model", str(given.model)]
    needs_model = "not run: give --model, a folder of MiniLM's weights"
    return {
        "first_step": ["--rounds", "3"],
        "inspect_start": ["--rounds", "3"],
        "sft_throughput": ["--rounds", "3", "--steps", "40"],
        "classify_throughput": [*model, "--rounds", "3", "--rows", "640"] if given.model else needs_model,
        "classify_spam": [*model, "--seeds", "1"] if given.model else needs_model,
        "predict_throughput": ["--model", str(given.classifier), "--rounds", "3", "--rows", "500"]
        if given.classifier
        else "not run: give --classifier, the model folder of a finished `alignkit classify`",
        "dpo_step": ["--rounds", "3", "--steps", "8"],
        "grpo_step": ["--rounds", "3", "--steps", "5"],
        "ppo_vs_trl": ["--peer", str(given.peer), "--seeds", "1", "--updates", "4"]
        if given.peer
        else "not run: give --peer, the Python of an environment with trl 1.12.0",
        "ppo_dense": ["--seeds", "1"],
        "processes": ["--rounds", "3", "--steps", "20"],
        "checkpoint_cost": ["--rounds", "2", "--steps", "100"],
        "score_rouge": ["--pairs", "1000", "--rounds", "3"],
        "perplexity": ["--stride", "256", "--tokens", "20000", "--rounds", "3"],
        "plan_accuracy": [],
        "plan_speed": ["--rounds", "3"],
    }


def rows_of(printed: str) -> list[tuple[str, str]]:
    """(first cell, "column: cell; …") of each row of the Markdown tables in `printed`, each once; else its lines."""
    found: dict[tuple[str, str], None] = {}
    header: list[str] | None = None
    for line in printed.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
        elif set("".join(cells)) - set("-: ") and cells != header:
            named = zip(header[1:], cells[1:], strict=False)
            found[cells[0], "; ".join(f"{name}: {cell}" if name else cell for name, cell in named if cell)] = None
    return list(found) or [("", " ".join(line.split())) for line in printed.splitlines() if line.strip()]


def run(script: str, arguments: list[str], limit: float) -> list[list[str]]:
    """The script's rows for the table; it is stopped after `limit` seconds."""
    began = time.monotonic()
    print(f"{script} …", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / f"{script}.py"), *arguments],
            cwd=HERE.parent, env=environment(), capture_output=True, text=True, check=False, timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [[script, "", f"failed: not done after {limit:.0f} s"]]
    print(f"{script}: {time.monotonic() - began:.0f} s, exit code {done.returncode}", file=sys.stderr, flush=True)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr, flush=True)
        return [[script, "", f"failed with exit code {done.returncode}"]]
    return [[script, first, rest] for first, rest in rows_of(done.stdout)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of scripts, without .py")
    parser.add_argument("--model", type=Path, help="a folder of all-MiniLM-L6-v2")
    parser.add_argument("--classifier", type=Path, help="a classifier's folder, for predict_throughput")
    parser.add_argument("--peer", type=Path, help="the Python of an environment with trl 1.12.0, for ppo_vs_trl")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that one benchmark may take")
    parser.add_argument("--out", type=Path, help="write the table here too, after each benchmark")
    given = parser.parse_args()
    chosen = commands(given)
    if unknown := set(given.only or ()) - set(chosen):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(chosen)}")
    lines: list[list[str]] = []
    for script, arguments in chosen.items():
        if given.only and script not in given.only:
            continue
        lines += [[script, "", arguments]] if isinstance(arguments, str) else run(script, arguments, given.limit)
        if given.out:
            given.out.write_text(table(HEADER, lines) + "\n", encoding="utf-8")
    print(table(HEADER, lines))
    return int(any(line[2].startswith("failed") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
