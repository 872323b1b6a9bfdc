"""Run folders as training leaves them, for the tests of the report; and reports on broken ones."""

import html
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alignkit.report import write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & {{ 7*7 }}"
VOID = {"meta", "link", "input", "img", "br"}


# ---------------------------------------------------------------------- run folders
def log_lines(steps: int, seed: int = 0) -> list[dict]:
    """What a real SFT run logs: noisy loss, warm-up and cosine, a gradient spike, held-out loss every 100 steps."""
    chance = random.Random(seed)
    lines: list[dict] = [{"step": 0, "epoch": 0.0, "eval_loss": 3.412, "eval_runtime": 2.1}]
    for step in range(5, steps + 1, 5):
        rate = 2e-4 * min(step / 30, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        lines.append(
            {
                "step": step,
                "epoch": round(step / steps * 2, 3),
                "loss": 0.42 + 2.9 * math.exp(-step / 90) + chance.gauss(0, 0.05),
                "grad_norm": abs(chance.gauss(1.1, 0.25)) + (240 if step == 315 else 0),
                "learning_rate": rate,
                "tokens_per_second": 18400 + chance.gauss(0, 350),
                "entropy": 1.2 + math.exp(-step / 60) + chance.gauss(0, 0.03),
                "mean_token_accuracy": 0.9 - 0.6 * math.exp(-step / 80) + chance.gauss(0, 0.01),
                "rewards/exact_match": min(1, step / steps + chance.gauss(0, 0.05)),
                "rewards/format": 0.97 + chance.gauss(0, 0.01),
                "kl": 0.002 * step / 10 + abs(chance.gauss(0, 0.002)),
            }
        )
        if step % 100 == 0:
            held_out = 0.47 + 2.9 * math.exp(-step / 90) + max(0, step - 400) * 0.0002
            accuracy = 0.88 - 0.6 * math.exp(-step / 80)
            lines.append({"step": step, "eval_loss": held_out, "eval_mean_token_accuracy": accuracy, "eval_runtime": 2})
    lines.append({"step": steps, "train_runtime": 212.4, "train_loss": 0.91, "total_flos": 1e15})
    return lines


def scores() -> list[dict]:
    base = {"name": "held_out", "task": "generation", "split": "eval"}
    rows = []
    for model, exact, bleu in (("baseline", 0.021, 3.14), ("tuned", 0.864, 61.27)):
        rows += [
            {**base, "model": model, "metric": "exact_match", "value": exact, "ci95": [exact - 0.019, exact + 0.02]}
            | {"n": 1000, "signature": "strip:yes|case:mixed"},
            {**base, "model": model, "metric": "bleu", "value": bleu, "ci95": [bleu - 1.9, bleu + 2.1], "n": 1000}
            | {"signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1"},
            {
                **base,
                "model": model,
                "metric": "rougeL",
                "value": exact + 0.05,
                "ci95": [exact, exact + 0.1],
                "n": 1000,
            },
            {"name": "held_out_ppl", "task": "perplexity", "split": "eval", "model": model, "metric": "perplexity"}
            | {"value": 30.3 if model == "baseline" else 1.71, "n": 1000}
            | {"ci95": [28.9, 31.8] if model == "baseline" else [1.66, 1.77]},
        ]
        for level, gain in (("one digit", 0.1), ("two digits", -0.05)):
            rows.append(
                {**base, "model": model, "metric": "exact_match", "value": exact + gain / 5, "n": 500}
                | {
                    "ci95": [exact + gain / 5 - 0.01, exact + gain / 5 + 0.03],
                    "slice": {"column": "level", "value": level},
                }
            )
    rows[-6]["p_value"] = 0.0001
    return rows


def samples(n: int = 240) -> list[dict]:
    """As the generation task writes them: a line a completion, one model after the other."""
    chance = random.Random(1)
    rows: dict[str, list[dict]] = {"baseline": [], "tuned": []}
    for i in range(n):
        a, b = chance.randint(10, 99), chance.randint(10, 99)
        wrong, was_right = chance.random() < 0.14, chance.random() < 0.03
        said = {
            "baseline": str(a + b) if was_right else "is is the the sum",
            "tuned": f"{a + b + (10 if wrong else 0)}",
        }
        for model, text in said.items():
            row = {"name": "held_out", "task": "generation", "split": "eval", "model": model, "id": f"addition:{i}"}
            row |= {"prompt": f"user: What is {a} + {b}?\nassistant: ", "references": [str(a + b)], "prediction": text}
            row |= {
                "metrics": {"exact_match": float(text == str(a + b)), "rougeL": 0.25},
                "tokens": 4,
                "finish": "stop",
            }
            rows[model].append(row)
    rows["baseline"][0]["prompt"] = HOSTILE
    rows["tuned"][1] |= {"prediction": "word " * 2000, "finish": "length"}
    return rows["baseline"] + rows["tuned"]


RECIPE = """\
method: sft
seed: 42
output_dir: runs/qlora-llama
model:
  model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
  dtype: auto
quantization:
  load_in_4bit: true
  bnb_4bit_quant_type: nf4
adapter:
  peft_type: LORA
  r: 16
  lora_alpha: 32
  target_modules: all-linear
data:
  train:
    - {path: HuggingFaceH4/ultrachat_200k, split: train_sft, weight: 0.8}
    - {path: ours.jsonl, weight: 0.2}
training:
  learning_rate: 2.0e-4
"""


def manifest() -> dict:
    train = {
        "rows": 52002,
        "examples": 51961,
        "dropped": {"empty answer": 29, "no room for one supervised token": 12},
        "tokens": 6_123_456,
        "supervised_tokens": 3_310_022,
        "truncated": 214,
        "longest": 2911,
        "length_histogram": [[64, 12000], [128, 21500], [256, 11400], [512, 5200], [1024, 1500], [2048, 361]],
        "packed_rows": 3041,
        "fill": 0.983,
        "sources": [
            {"path": "HuggingFaceH4/ultrachat_200k", "rows": 41600, "examples": 41570, "layout": "messages"}
            | {"shape": "language_modeling"},
            {"path": "ours.jsonl", "rows": 10402, "examples": 10391, "layout": "alpaca", "shape": "prompt_completion"},
        ],
    }
    return {
        "alignkit": "0.1.0",
        "method": "sft",
        "command": ["alignkit", "sft", "recipes/qlora llama.yaml", "--set", "training.learning_rate=2e-4"],
        "created": "2026-11-22T14:31:07+0000",
        "versions": {
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "trl": "1.16.0",
            "peft": "0.21.2",
        },
        "git": {"commit": "e20f9130c0ffee0ddba11", "dirty": True},
        "hardware": {"device": "NVIDIA H200", "devices": 1, "cpu_cores": 16},
        "seed": 42,
        "data": {"train": train, "eval": {"examples": 1000, "tokens": 118_000}},
        "fingerprints": {
            "data": "9f2c" * 16,
            "template": "ab12" * 16,
            "tokenizer": "77de" * 16,
            "base_model": "c0de" * 16,
        },
        "model": {"name_or_path": "meta-llama/Llama-3.1-8B-Instruct", "parameters": 8_072_204_288}
        | {"trainable_parameters": 41_943_040, "dtype": "bfloat16"}
        | {"precision_notes": ["frozen weights NF4, computed in bfloat16"]},
        "result": {"wall_time_s": 4015.2, "train_time_s": 3610.9, "peak_memory_bytes": 24_010_000_000, "steps": 600}
        | {"tokens": 6_123_456, "tokens_per_second": 18412.7, "first_step_s": 41.3},
        "warnings": ["214 of 51,961 examples were truncated to max_length 2048", f"template says {HOSTILE}"],
    }


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def finished_run(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest()), encoding="utf-8")
    (folder / "state.json").write_text(json.dumps({"state": "finished"}), encoding="utf-8")
    adapter = {"task_type": "CAUSAL_LM", "base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}
    (folder / "model" / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    write_lines(folder / "metrics.jsonl", log_lines(600))
    write_lines(folder / "evaluation" / "samples.jsonl", samples())
    (folder / "evaluation" / "scores.json").write_text(json.dumps(scores()), encoding="utf-8")
    return folder


def interrupted_run(folder: Path) -> Path:
    """No result, no scores; the log has a NaN, an infinity and a last line that was cut short."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    state = {"state": "interrupted", "resume": "alignkit sft recipes/qlora_llama.yaml --resume"}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"method": "sft", "seed": 42}), encoding="utf-8")
    lines = log_lines(220)[:-1]
    lines[20]["loss"], lines[21]["grad_norm"] = float("nan"), float("inf")
    write_lines(folder / "metrics.jsonl", lines)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 225, "lo')
    return folder


# ---------------------------------------------------------------------- reading a page
class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, ids and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def plain(markdown: str) -> str:
    """Markdown with its escapes taken back."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|#])", r"\1", markdown))


def report_of(folder: Path) -> tuple[Page, str, str]:
    path = write_report(folder)
    source = path.read_text(encoding="utf-8")
    return Page(source), source, (folder / "report.md").read_text(encoding="utf-8")


def no_number_that_is_none(page: Page, markdown: str) -> None:
    for text in (page.text, markdown, *(value or "" for _, attrs in page.tags for value in attrs.values())):
        assert not re.search(r"(?<![a-zA-Z])(nan|inf|infinity|-inf)(?![a-zA-Z])", text, re.IGNORECASE), text[:200]


# ---------------------------------------------------------------------- broken runs
@pytest.mark.parametrize(
    "name", ["manifest.json", "state.json", "recipe.yaml", "metrics.jsonl", "evaluation/scores.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'"text"', b"\xff\xfe\x00", b"null", b'{"data": 3, "result": []}']
)
def test_no_file_breaks_the_report(tmp_path, name, content):
    folder = finished_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    page, _, markdown = report_of(folder)
    assert page.text and markdown
    no_number_that_is_none(page, markdown)


@pytest.mark.parametrize("odd", [None, 3, "text", [], [1], {}, {"a": {"b": [None]}}, float("inf")], ids=repr)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_value_of_another_type_breaks_the_report(tmp_path, odd, depth):
    folder = finished_run(tmp_path / "run")

    def spoil(value, level):
        if level == 0:
            return odd
        if isinstance(value, dict):
            return {key: spoil(item, level - 1) for key, item in value.items()}
        return [spoil(item, level - 1) for item in value] if isinstance(value, list) else value

    for name in ("manifest.json", "state.json", "evaluation/scores.json", "model/adapter_config.json"):
        path = folder / name
        path.write_text(json.dumps(spoil(json.loads(path.read_text(encoding="utf-8")), depth)), encoding="utf-8")
    for path in (folder / "metrics.jsonl", folder / "evaluation" / "samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:50]]
        write_lines(path, [spoil(row, depth) for row in rows])
    page, _, markdown = report_of(folder)
    assert page.text and markdown


def test_numbers_that_are_none_in_every_place(tmp_path):
    folder = finished_run(tmp_path / "run")

    def spoil(value):
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return float("nan") if isinstance(value, int | float) else value

    for path in (folder / "manifest.json", folder / "evaluation" / "scores.json"):
        path.write_text(json.dumps(spoil(json.loads(path.read_text()))), encoding="utf-8")
    page, _, markdown = report_of(folder)
    no_number_that_is_none(page, markdown)
