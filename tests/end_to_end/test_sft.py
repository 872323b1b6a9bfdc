"""`alignkit sft` as a user runs it: it trains, writes the whole run folder, stops and goes on, and fails clearly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Recipe = dict[str, Any]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_everything(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    tiny_recipe["data"]["eval_fraction"] = 0.25
    tiny_recipe["evaluation"] = [
        {
            "name": "sums",
            "task": "generation",
            "metrics": ["exact_match"],
            "generation": {"max_new_tokens": 4},
            "max_rows": 8,
        }
    ]
    done = cli("sft", write_recipe(tiny_recipe), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    run = tmp_path / "run"
    for name in ("recipe.yaml", "manifest.json", "state.json", "metrics.jsonl", "report.html", "report.md", "log.txt"):
        assert (run / name).stat().st_size > 0, name
    assert result["state"] == "finished" and json.loads((run / "state.json").read_text())["state"] == "finished"
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert steps == [1, 2, 3, 4]
    evaluated = [line["step"] for line in metrics(run) if "eval_loss" in line]
    assert evaluated == [0, 4]
    assert (run / "checkpoints" / "checkpoint-4" / "trainer_state.json").exists()
    assert not (run / "checkpoints" / ".saving").exists()
    scored = {(score["model"], score["metric"]) for score in result["scores"]}
    assert {("tuned", "exact_match"), ("baseline", "exact_match")} <= scored
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["train"]["examples"] == 48 and manifest["result"]["steps"] == 4
    # The result loads without alignkit.
    folder = str(run / "model")
    names = "AutoModelForCausalLM, AutoTokenizer"
    code = f"from transformers import {names}; [kind.from_pretrained({folder!r}) for kind in ({names})]"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    # A second start is refused, and says how to go on; the recorded recipe trains again to the same weights.
    assert cli("sft", tmp_path / "recipe.yaml").returncode == 2
    again = cli("sft", run / "recipe.yaml", "--set", "output_dir=again")
    assert again.returncode == 0, again.stderr
    assert_same_weights(run / "model", tmp_path / "again" / "model")


def test_the_last_step_is_told(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """A run shorter than logging_steps has a loss too, and the steps after the last multiple of it."""
    tiny_recipe["training"] |= {"logging_steps": 3}
    done = cli("sft", write_recipe(tiny_recipe))
    assert "step 4/4  loss" in done.stderr, done.stderr
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == [3, 4]


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(bool((mine[name] == theirs[name]).all()) for name in mine)


def start(recipe: Path, *words: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "alignkit"), "sft", str(recipe), *words]
    return subprocess.Popen(command, cwd=recipe.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and any(line["step"] >= step for line in metrics(run)):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_weights(
    tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path, stop: signal.Signals
) -> None:
    # 64 rows in batches of 8: eight steps an epoch, so the stop falls past the first epoch, where order is often lost.
    tiny_recipe["training"] |= {"max_steps": 400, "save_strategy": "no"}
    tiny_recipe["model"]["config"]["tie_word_embeddings"] = stop is signal.SIGTERM
    recipe = write_recipe(tiny_recipe)
    process = start(recipe)
    wait_for_step(tmp_path / "run", 20, process)
    process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "continue with: alignkit sft" in err and "--resume" in err
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["state"] == "interrupted" and state["resume"].endswith("--resume")
    done = start(recipe, "--resume")
    _, err = done.communicate(timeout=240)
    assert done.returncode == 0, err
    steps = [line["step"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert steps == list(range(1, 401))
    assert "missing keys" not in (tmp_path / "run" / "log.txt").read_text()  # of the tied head
    straight = start(recipe, "--set", "output_dir=straight")
    _, err = straight.communicate(timeout=240)
    assert straight.returncode == 0, err
    assert_same_weights(tmp_path / "run" / "model", tmp_path / "straight" / "model")


def test_a_resume_with_another_recipe_is_refused(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe(tiny_recipe)
    assert cli("sft", recipe).returncode == 0
    done = cli("sft", recipe, "--resume", "--set", "training.learning_rate=0.5")
    assert done.returncode == 2 and "training.learning_rate" in done.stderr, done.stderr
    pairs = {"train": [{"generate": "sorting_preferences", "options": {"rows": 64}}]}
    other = write_recipe(tiny_recipe | {"method": "dpo", "data": pairs}, "dpo.yaml")
    done = cli("dpo", other, "--resume")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "is of the method sft, and this recipe's is dpo" in done.stderr


def test_the_first_loss_that_is_not_finite_stops_the_run(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    tiny_recipe["training"] |= {"learning_rate": 1e30, "max_steps": 50, "save_steps": 1}
    done = cli("sft", write_recipe(tiny_recipe))
    assert done.returncode == 1, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "step" in error[0] and "addition:" in error[0] and "checkpoint-" in error[0]
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "failed"
    assert not (tmp_path / "run" / "model").exists()


def test_early_stopping_keeps_the_best(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    tiny_recipe["data"]["eval_fraction"] = 0.25
    tiny_recipe["training"] |= {
        "max_steps": 60,
        "learning_rate": 0.3,  # far too high: the first evaluation is the best
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "early_stopping_patience": 3,
    }
    done = cli("sft", write_recipe(tiny_recipe))
    assert done.returncode == 0, done.stderr
    lines = [line for line in metrics(tmp_path / "run") if "eval_loss" in line]
    assert lines[-1]["step"] < 60
    checkpoints = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    best = min((line for line in lines if line["step"]), key=lambda line: line["eval_loss"])
    assert f"checkpoint-{best['step']}" in checkpoints
    assert_same_weights(tmp_path / "run" / "model", tmp_path / "run" / "checkpoints" / f"checkpoint-{best['step']}")


def test_memory_that_runs_out_says_what_to_change(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], write_jsonl: Callable[..., Path]
) -> None:
    # Attention scores of 8 × 512 heads × 4096² in float32: 256 GiB, which the allocator refuses at once.
    write_jsonl([{"prompt": "x" * 4000, "completion": "yes"}] * 8)
    tiny_recipe["data"] = {"train": [{"path": "data.jsonl"}]}
    tiny_recipe["model"] |= {"attn_implementation": "eager"}
    heads = {"hidden_size": 1024, "num_attention_heads": 512, "num_key_value_heads": 512, "num_hidden_layers": 1}
    tiny_recipe["model"]["config"] |= {**heads, "max_position_embeddings": 4096}
    tiny_recipe["training"]["max_length"] = 4096
    done = cli("sft", write_recipe(tiny_recipe))
    assert done.returncode == 1, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "out of memory" in error[0] and "per_device_train_batch_size" in error[0]


@pytest.mark.slow
def test_the_embedded_default_learns(cli: Cli, tmp_path: Path) -> None:
    done = cli("sft", Path(__file__).parents[2] / "recipes" / "tiny" / "sft.yaml", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    scores = {(score["model"], score["metric"]): score for score in json.loads(done.stdout)["scores"]}
    assert scores["tuned", "exact_match"]["ci95"][0] > 0.5 > scores["baseline", "exact_match"]["ci95"][1]
    # It is there: evaluating the run again, and a report made again, need no training.
    again = cli("eval", tmp_path / "runs" / "tiny-sft", "--json")
    assert again.returncode == 0, again.stderr
    values = {(score["model"], score["metric"]): score["value"] for score in json.loads(again.stdout)}
    assert values["tuned", "exact_match"] == scores["tuned", "exact_match"]["value"]
    compared = cli("compare", tmp_path / "runs" / "tiny-sft", "--json")
    assert compared.returncode == 0 and json.loads(compared.stdout)["rows"], compared.stderr


def test_a_finished_run_has_nothing_left_to_train(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    # A constant rate: with one that ends at zero, a step too many would leave the weights as they are.
    tiny_recipe["training"] |= {"lr_scheduler_type": "constant", "learning_rate": 1e-2, "save_steps": 2}
    recipe = write_recipe(tiny_recipe)
    assert cli("sft", recipe).returncode == 0
    run, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copytree(run / "model", kept)
    # Killed between its last checkpoint and saving the result: the result is made of that checkpoint.
    shutil.rmtree(run / "model")
    for killed in (True, False):
        done = cli("sft", recipe, "--resume")
        assert done.returncode == 0, done.stderr
        assert_same_weights(run / "model", kept)
        assert [line["step"] for line in metrics(run) if "loss" in line] == [1, 2, 3, 4], killed
    both = cli("sft", recipe, "--resume", "--overwrite")
    assert both.returncode == 2 and both.stderr.startswith("error: --resume")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"adapter": {"target_modules": ["lm_head"]}}, "adapter.target_modules"),
        ({"training": {"metric_for_best_model": "bleu", "eval_strategy": "epoch"}}, "training.metric_for_best_model"),
        ({"model": {"num_key_value_heads": 3}}, "model.config.num_key_value_heads"),
        ({"model": {"num_hidden_layers": 0}}, "model.config.num_hidden_layers"),
        ({"evaluation": [{"name": "a", "task": "generation", "metrics": ["bleuu"]}]}, "evaluation.0.metrics"),
    ],
)
def test_what_upstream_would_find_late_is_refused_early(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Callable[..., Path], changes: Recipe, wanted: str
) -> None:
    tiny_recipe["data"]["eval_fraction"] = 0.25
    for section, values in changes.items():
        if section == "model":
            tiny_recipe["model"]["config"] |= values
        elif section == "evaluation":
            tiny_recipe["evaluation"] = values
        else:
            tiny_recipe[section] = {**tiny_recipe.get(section, {}), **values}
    done = cli("sft", write_recipe(tiny_recipe))
    assert done.returncode == 2 and wanted in done.stderr, done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
