"""Training examples a second of `alignkit classify` against a plain Trainer script with dynamic padding; and accuracy.

    python benchmarks/classify_throughput.py --model PATH/TO/all-MiniLM-L6-v2 --rounds 3

Run in turn, on the CPU, over the same rows with the same batch size, learning rate and number of steps. The script is
what transformers' guide to text classification does: tokenize, DataCollatorWithPadding, Trainer with its defaults.
Neither evaluates while it trains. Accuracy is measured by one code, on rows that neither has seen.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import BIN, SHARED, environment, median, table, write_jsonl

LEARNING_RATE, BATCH, LENGTH = 1e-4, 16, 128
RECIPE = """\
method: classify
output_dir: {output}
model: {{model_name_or_path: {model}, dtype: float32}}
data: {{train: {train}}}
training: {{num_train_epochs: 1, learning_rate: {rate}, per_device_train_batch_size: {batch}, max_length: {length},
  save_strategy: "no"}}
evaluation: [{{name: held_out, task: classification, data: {held_out}, baseline: false, max_rows: 8}}]
"""
SCRIPT = """\
import json, sys
from datasets import Dataset
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
                          TrainingArguments)
model, train, output, rate, batch, length = sys.argv[1:]
rows = [json.loads(line) for line in open(train, encoding="utf-8")]
names = sorted({row["label"] for row in rows})
tokenizer = AutoTokenizer.from_pretrained(model)
data = Dataset.from_list([{"text": row["text"], "labels": names.index(row["label"])} for row in rows])
data = data.map(lambda some: tokenizer(some["text"], truncation=True, max_length=int(length)), batched=True)
network = AutoModelForSequenceClassification.from_pretrained(
    model, num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
arguments = TrainingArguments(output, num_train_epochs=1, learning_rate=float(rate), report_to="none", use_cpu=True,
                              per_device_train_batch_size=int(batch), save_strategy="no", disable_tqdm=True)
data, collator = data.remove_columns("text"), DataCollatorWithPadding(tokenizer)
trainer = Trainer(network, arguments, data_collator=collator, train_dataset=data)
done = trainer.train()
network.save_pretrained(output); tokenizer.save_pretrained(output)
print("SECONDS", done.metrics["train_runtime"])
"""


def run_alignkit(work: Path, model: Path, train: Path, held_out: Path) -> tuple[float, Path]:
    output = work / "alignkit"
    shutil.rmtree(output, ignore_errors=True)
    recipe = work / "recipe.yaml"
    values = {"rate": LEARNING_RATE, "batch": BATCH, "length": LENGTH, "held_out": held_out}
    recipe.write_text(RECIPE.format(output=output, model=model, train=train, **values))
    subprocess.run([BIN / "alignkit", "classify", recipe], check=True, env=environment(), stdout=subprocess.DEVNULL)
    return json.loads((output / "manifest.json").read_text())["result"]["train_time_s"], output / "model"


def run_script(work: Path, model: Path, train: Path, _held_out: Path) -> tuple[float, Path]:
    output = work / "script"
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-c", SCRIPT, model, train, output, LEARNING_RATE, BATCH, LENGTH]
    done = subprocess.run(list(map(str, words)), env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.rsplit("SECONDS", 1)[1]), output


def accuracy(model: Path, held_out: Path) -> float:
    """The share of held-out rows whose label is right, by plain transformers."""
    from transformers import pipeline

    rows = [json.loads(line) for line in held_out.read_text(encoding="utf-8").splitlines()]
    answer = pipeline("text-classification", model=str(model), batch_size=32, truncation=True, max_length=LENGTH)
    said = answer([row["text"] for row in rows])
    return sum(one["label"] == row["label"] for one, row in zip(said, rows, strict=True)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=SHARED / "sms_spam" / "sms_spam.jsonl")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000, help="train on this many rows")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train = write_jsonl(work / "train.jsonl", rows[: options.rows])
        held_out = write_jsonl(work / "held_out.jsonl", rows[-500:])
        rates: dict[str, list[float]] = {"alignkit classify": [], "Trainer script": []}
        right: dict[str, list[float]] = {name: [] for name in rates}
        for _ in range(options.rounds):
            for name, run in (("alignkit classify", run_alignkit), ("Trainer script", run_script)):
                seconds, model = run(work, options.model.absolute(), train, held_out)
                rates[name].append(options.rows / seconds)
                right[name].append(accuracy(model, held_out))
        ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
        lines = [(name, f"{median(values):,.1f}", f"{median(right[name]):.4f}") for name, values in rates.items()]
        print(table(("command", "examples/s (median)", "held-out accuracy"), lines))
        print(f"\nratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


if __name__ == "__main__":
    main()
