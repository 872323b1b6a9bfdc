"""The model card: what the Hub reads of it, and that it tells of the run what a person needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from alignkit.report.card import write_card

SCORES = [
    {"name": "gsm8k", "task": "generation", "split": "test", "model": model, "metric": "exact_match", "value": value,
     "ci95": [value - 0.02, value + 0.02], "n": 500}
    for model, value in (("tuned", 0.61), ("baseline", 0.42))
]  # fmt: skip


def run_folder(path: Path, base: str, source: str, **files: dict[str, Any]) -> Path:
    """A finished run as its files say it."""
    recipe = {
        "method": "sft", "seed": 42, "output_dir": str(path), "model": {"model_name_or_path": base},
        "adapter": {"peft_type": "LORA", "r": 16}, "quantization": {"load_in_4bit": True},
        "data": {"train": [{"path": source}]}, "training": {"learning_rate": 2e-4, "max_steps": 30},
    }  # fmt: skip
    manifest = {
        "method": "sft", "model": {"name_or_path": base, "dtype": "bfloat16"}, "result": {"steps": 30, "tokens": 1000},
        "data": {"train": {"sources": [{"path": source, "examples": 7473, "layout": "question_answer"}]}},
        "versions": {"trl": "1.16.0"},
    }  # fmt: skip
    model = {"adapter_config.json": {"base_model_name_or_path": base, "task_type": "CAUSAL_LM"}}
    contents = {"recipe.yaml": recipe, "manifest.json": manifest, "evaluation/scores.json": SCORES}
    contents |= {f"model/{name}": value for name, value in (files or model).items()}
    for name, value in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(yaml.safe_dump(value) if name.endswith("yaml") else json.dumps(value))
    return path


def test_the_hub_reads_base_data_and_scores(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "math", "Qwen/Qwen2.5-1.5B-Instruct", "openai/gsm8k")
    write_card(run)
    card = ModelCard.load(run / "model" / "README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-1.5B-Instruct" and card.data.base_model_relation == "adapter"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.datasets == ["openai/gsm8k"] and card.data.tags == ["alignkit", "sft", "qlora"]
    (result,) = card.data.eval_results  # type: ignore[misc]
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("gsm8k", "exact_match", 0.61)
    for text in (
        "| gsm8k | exact_match | 0.610 [0.590, 0.630] | 0.420 [0.400, 0.440] | 500 |",
        "An adapter for [Qwen/Qwen2.5-1.5B-Instruct](https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct)",
        "AutoPeftModelForCausalLM.from_pretrained(",
        "| [openai/gsm8k](https://huggingface.co/datasets/openai/gsm8k) | 7,473 | question_answer |",
        "| learning_rate | 0.0002 |",
    ):
        assert text in card.text, text


def test_local_paths_stay_out_of_the_metadata(tmp_path: Path) -> None:
    """The Hub refuses a card whose base_model is a path, and the path would tell of this machine."""
    base = tmp_path / "private" / "base"
    run = run_folder(tmp_path / "run", str(base), str(tmp_path / "private" / "rows.jsonl"))
    write_card(run)
    text = (run / "model" / "README.md").read_text()
    data = ModelCard.load(run / "model" / "README.md").data
    assert data.base_model is None and data.datasets is None
    assert "private" not in text and "a local model (`base`)" in text and "| rows.jsonl |" in text


def test_a_merged_model_says_that_it_is_whole(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "Qwen/Qwen2.5-1.5B-Instruct", "openai/gsm8k")
    (run / "merged").mkdir()
    (run / "merged" / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    write_card(run, run / "merged")
    card = ModelCard.load(run / "merged" / "README.md")
    assert (card.data.library_name, card.data.base_model_relation) == ("transformers", "finetune")
    assert card.data.base_model == "Qwen/Qwen2.5-1.5B-Instruct" and "AutoModelForCausalLM.from_pretrained(" in card.text


def test_broken_files_make_a_card_all_the_same(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "a/b", "c/d")
    (run / "manifest.json").write_text("{")
    (run / "evaluation" / "scores.json").write_text("[1, {}]")
    write_card(run)
    before = (run / "model" / "README.md").stat().st_mtime_ns
    write_card(run)  # the same again is not written: its time tells others whether the model changed
    assert (run / "model" / "README.md").stat().st_mtime_ns == before
