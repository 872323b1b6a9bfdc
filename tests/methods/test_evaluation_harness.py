"""lm-evaluation-harness as a task: its own local tasks on a real small model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import UserError
from alignkit.evaluation.tasks import evaluate_tasks
from alignkit.models import load_result
from alignkit.recipe import EvaluationTask

pytest.importorskip("lm_eval")

SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PICK = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: "{{[answer, '999']}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def harness_tasks(tmp_path: Path) -> Path:
    data = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in (("sums", SUMS), ("pick", PICK)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return folder


def task(**section: object) -> EvaluationTask:
    return EvaluationTask.model_validate({"name": "harness", "task": "lm_eval", "lm_eval": section})


def test_scores_intervals_and_samples(harness_tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_result(tiny_model)
    asked = task(tasks=["sums", "pick"], include_path="tasks", num_fewshot=1)
    out = tmp_path / "out"
    scores = evaluate_tasks([asked], model, tokenizer, base_dir=tmp_path, model_label="tuned", out_dir=out)

    found = {(score["name"], score["metric"]): score for score in scores}
    assert set(found) == {("harness/sums", "exact_match"), ("harness/pick", "acc")}
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    for (name, metric), score in found.items():
        mine = [line for line in lines if line["name"] == name]
        assert len(mine) == score["n"] == 12
        assert score["value"] == pytest.approx(np.mean([line["metrics"][metric] for line in mine]))
        low, high = score["ci95"]
        assert low <= score["value"] <= high and low < high
        assert "shots:1" in score["signature"] and "lm_eval:" in score["signature"]
    assert all(line["prompt"].endswith("=") and line["references"] for line in lines)


def test_unknown_task_is_said_before_anything_runs(harness_tasks: Path, tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_result(tiny_model)
    with pytest.raises(UserError, match="no task sumz"):
        evaluate_tasks(
            [task(tasks=["sumz"], include_path="tasks")],
            model,
            tokenizer,
            base_dir=tmp_path,
            model_label="tuned",
            out_dir=tmp_path / "out",
        )


def test_a_recipe_needs_the_section_and_nothing_beside_it(write_recipe, tiny_recipe, cli) -> None:
    tiny_recipe["evaluation"] = [
        {"name": "a", "task": "lm_eval", "data": "x.jsonl"},
        {"name": "b", "task": "generation", "lm_eval": {"tasks": ["sums"]}, "data": {"generate": "addition"}},
    ]
    done = cli("check", write_recipe(tiny_recipe))
    assert done.returncode == 2
    assert "evaluation.0.lm_eval: nothing says which tasks" in done.stderr
    assert "evaluation.0.data: the harness's tasks bring their own" in done.stderr
    assert "evaluation.1.lm_eval: does nothing for task: generation" in done.stderr
