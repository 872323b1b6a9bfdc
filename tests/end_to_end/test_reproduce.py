"""`alignkit reproduce` as a user runs it: the same result bit for bit; what changed is said, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignkit.reproduce.outcome import compare
from alignkit.runs import Run

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
TASK = {"name": "sums", "task": "generation", "metrics": ["exact_match"], "max_rows": 8}


def test_a_run_is_built_again_and_changed_data_are_noticed(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], write_jsonl: Callable[..., Path],
    tmp_path: Path, tiny_model: Path,
) -> None:  # fmt: skip
    rows = [{"prompt": f"{n}+{n}=", "completion": str(2 * n)} for n in range(60)]
    data = write_jsonl(rows)
    tiny_recipe["model"] = {"model_name_or_path": str(shutil.copytree(tiny_model, tmp_path / "base"))}
    tiny_recipe["data"] = {"train": [{"path": "data.jsonl"}], "eval_fraction": 0.2}
    tiny_recipe["evaluation"] = [{**TASK, "generation": {"max_new_tokens": 4}}]
    assert cli("sft", write_recipe(tiny_recipe)).returncode == 0

    done = cli("reproduce", "run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("nothing differs now")
    assert any(line.startswith("weights") and "bitwise equal" in line for line in lines)
    assert lines[-1] == "the same result: run-reproduced"
    again = json.loads((tmp_path / "run-reproduced" / "manifest.json").read_text())
    assert again["reproduction"]["equal"] and again["result"]["weights"] == manifest(tmp_path)["result"]["weights"]

    data.write_text(data.read_text().replace("7+7=", "7+8="))
    refused = cli("reproduce", "run", "--output-dir", "other")
    assert refused.returncode == 2 and not (tmp_path / "other").exists()
    assert "inputs data.train.0: was " in refused.stderr and "--allow-changes" in refused.stderr
    changed = cli("reproduce", "run", "--output-dir", "other", "--allow-changes", "--json", OMP_NUM_THREADS="2")
    assert changed.returncode == 1, changed.stderr
    assert changed.stderr.splitlines()[-1] == "error: other is not the same as run: inputs, weights, metrics"
    told = json.loads(changed.stdout)
    assert {(one["part"], one["name"]) for one in told["changes"]} >= {
        ("inputs", "data.train.0"),
        ("environment", "OMP_NUM_THREADS"),
    }
    by_part = {one["part"]: one["text"] for one in told["verdicts"]}
    assert by_part["inputs"].startswith("not the same: data.train.0") and "tensors differ, by" in by_part["weights"]
    assert "differ from step" in by_part["metrics"] and "threads 1 then, 2 now" in by_part["settings"]
    # Once built, it is only compared again: in a second, and to the same end.
    assert cli("reproduce", "run", "--output-dir", "other", "--allow-changes").returncode == 1


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "manifest.json").read_text())


def test_a_run_from_another_recipes_result(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    first = write_recipe({**tiny_recipe, "output_dir": "first"}, "first.yaml")
    second = {**tiny_recipe, "model": {"from_recipe": "first.yaml"}, "output_dir": "second"}
    second["training"] = {**tiny_recipe["training"], "max_steps": 2}
    assert cli("sft", write_recipe(second, "second.yaml")).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = cli("reproduce", "../second", "--output-dir", "again", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in elsewhere.iterdir()) == ["again"]  # the first one was there, and was found
    shutil.rmtree(tmp_path / "first")
    done = cli("reproduce", "second")
    assert done.returncode == 0, done.stderr
    assert "made again first" in done.stdout and (tmp_path / "first" / "model").is_dir()
    first.unlink()
    shutil.rmtree(tmp_path / "second-reproduced")
    refused = cli("reproduce", "second")
    assert refused.returncode == 2 and "model.from_recipe: was" in refused.stderr and "not found" in refused.stderr


def test_what_is_no_finished_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert "there is no such run folder" in cli("reproduce", "nowhere").stderr
    (tmp_path / "empty").mkdir()
    refused = cli("reproduce", "empty")
    assert refused.returncode == 2 and "holds no run" in refused.stderr


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    """Two runs with the same weights (one of them bfloat16), metrics and scores."""
    runs = Run(tmp_path / "a"), Run(tmp_path / "b")
    weights = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    for run in runs:
        for folder in (run.model_dir, run.path / "critic", run.evaluation_dir):
            folder.mkdir(parents=True)
        save_file(weights, run.model_dir / "model.safetensors")
        save_file({"v": torch.zeros(3)}, run.path / "critic" / "model.safetensors")
        lines = [{"step": n, "loss": 1 / n, "tokens_per_second": id(run), "reward_wait_s": id(run)} for n in (1, 2, 3)]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = {"name": "t", "split": "eval", "model": "tuned", "metric": "bleu", "value": 3.5}
        (run.evaluation_dir / "scores.json").write_text(json.dumps([score]))
    return runs


def test_each_part_has_a_verdict(pair: tuple[Run, Run]) -> None:
    one, other = pair
    assert {verdict.part: verdict.equal for verdict in compare(one, other)} == {
        "inputs": None, "weights": True, "critic's weights": True, "metrics": True, "scores": True, "settings": None,
    }  # fmt: skip
    file = other.model_dir / "model.safetensors"
    weights = load_file(file)
    weights["b"][2] += 0.5
    save_file(weights, file)
    other.metrics_path.write_text(other.metrics_path.read_text().replace("0.5", "0.25"))
    scores = other.evaluation_dir / "scores.json"
    scores.write_text(scores.read_text().replace("3.5", "4"))
    found = {verdict.part: verdict.text for verdict in compare(one, other) if verdict.equal is False}
    assert found == {
        "weights": "1 of 2 tensors differ, by 0.5 at most (b)",
        "metrics": "differ from step 2 on: loss 0.5 then, 0.25 now",
        "scores": "1 of 1 differ: bleu of t (tuned) 3.5 then, 4 now",
    }
