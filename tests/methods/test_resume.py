"""Going on with a run: exactly, from a checkpoint that verifies, or with what changed said and recorded."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.methods.test_dpo import stop_after

import alignkit
from alignkit.checkpoints import SEAL, by_step, fault, seal
from alignkit.errors import Interrupted, UserError
from alignkit.runs import Run
from alignkit.sameness import compare_runs

Recipe = dict[str, Any]


@pytest.fixture
def stopped(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """`stopped(after, **training)`: a recipe whose run was stopped after that step; the recipe can be changed."""
    monkeypatch.chdir(tmp_path)

    def run(after: int, **training: Any) -> Recipe:
        recipe = copy.deepcopy(tiny_recipe)
        recipe["training"] |= {"max_steps": 8, "save_steps": 2, **training}
        with monkeypatch.context() as context:
            stop_after(context, after)
            with pytest.raises(Interrupted):
                train(recipe)
        return recipe

    return run


def train(recipe: Recipe, **options: Any) -> Run:
    return alignkit.train(alignkit.load_recipe(recipe), **options)


def differing(one: Path, other: Path) -> list[str]:
    return [f"{verdict.part}: {verdict.detail}" for verdict in compare_runs(one, other) if not verdict.same]


def test_early_stopping_goes_on_with_the_patience_it_has_left(stopped, tiny_recipe, tmp_path: Path) -> None:
    """Upstream forgets how often the metric has not improved: a resumed run would stop later."""
    tiny_recipe["data"]["eval_fraction"] = 0.25
    early = {
        "max_steps": 40,
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "early_stopping_patience": 3,
    }
    recipe = stopped(6, **early)
    again = train(recipe, resume=True)
    straight = train(recipe | {"output_dir": "straight"})
    assert differing(straight.path, again.path) == []
    assert again.manifest["result"]["steps"] < 40


def test_more_steps_are_allowed_also_when_the_run_is_finished(tiny_recipe, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_recipe["training"] |= {"save_steps": 2, "lr_scheduler_type": "constant", "warmup_steps": 0}
    train(tiny_recipe)
    longer = copy.deepcopy(tiny_recipe)
    longer["training"]["max_steps"] = 8
    again = train(longer, resume=True)
    assert "training.max_steps is 8, was 4" in capfd.readouterr().err
    straight = train(longer | {"output_dir": "straight"})
    assert differing(straight.path, again.path) == []  # a constant learning rate has no schedule to differ by


def test_changes_are_listed_refused_and_with_leave_recorded(stopped, tmp_path: Path) -> None:
    recipe = stopped(4)
    recipe["training"] |= {"learning_rate": 0.5, "weight_decay": 0.1, "save_steps": 1}
    with pytest.raises(UserError) as refused:
        train(recipe, resume=True)
    fields = {problem.field for problem in refused.value.problems}
    assert fields == {"training.learning_rate", "training.weight_decay"}  # and not save_steps, which changes nothing
    assert "--allow-changes" in str(refused.value)
    run = train(recipe, resume=True, allow_changes=True)
    (entry,) = run.manifest["resumed"]
    assert entry["from_step"] == 4 and len(entry["changes"]) == 2 and "learning_rate" in entry["changes"][0]
    assert [step for step, _ in by_step(run.checkpoints_dir)] == [8, 7, 6, 5, 4, 2]


def test_changed_data_are_refused(stopped, tiny_recipe, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i}+1=", "completion": str(i + 1)}) + "\n" for i in range(40)]
    rows.write_text("".join(lines))
    tiny_recipe["data"]["train"] = [{"path": str(rows)}]
    recipe = stopped(4)
    rows.write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match=r"data\.train: the data: it is not what it was when the run began"):
        train(recipe, resume=True)
    assert Run("run").state == "interrupted" and by_step(Path("run/checkpoints")), "the run is left as it was"
    run = train(recipe, resume=True, allow_changes=True)
    assert "the data" in run.manifest["resumed"][0]["changes"][0]


def test_a_damaged_checkpoint_is_skipped_and_named(stopped, tmp_path: Path, capfd) -> None:
    recipe = stopped(6)
    newest = by_step(Path("run/checkpoints"))[0][1]
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-10])
    again = train(recipe, resume=True)
    said = capfd.readouterr().err
    assert "skipped checkpoint-6: optimizer.pt is damaged" in said and "going on from step 4" in said
    straight = train(recipe | {"output_dir": "straight"})
    assert differing(straight.path, again.path) == []


def test_where_no_checkpoint_verifies_nothing_begins_anew(stopped, tmp_path: Path) -> None:
    recipe = stopped(4)
    for _, path in by_step(Path("run/checkpoints")):
        (path / SEAL).unlink()
    with pytest.raises(UserError, match="cannot be used") as refused:
        train(recipe, resume=True)
    assert len(refused.value.problems) == 2 and "--overwrite" in str(refused.value)


def test_a_seal_is_what_sha256sum_reads(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a b.bin").write_bytes(b"1" * 3_000_000)
    (tmp_path / "folder" / "c").write_text("2")
    seal(tmp_path)
    assert fault(tmp_path) is None
    assert subprocess.run(["sha256sum", "-c", "--quiet", SEAL], cwd=tmp_path, check=False).returncode == 0
    (tmp_path / "folder" / "c").unlink()
    assert fault(tmp_path) == "folder/c is missing"


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_good_one(
    tiny_recipe, write_recipe, tmp_path: Path
) -> None:
    """A limit on a file's size stands in for a full disk: the second checkpoint is made too large for it."""
    tiny_recipe["training"] |= {"max_steps": 8, "save_steps": 2}
    tiny_recipe["model"]["config"]["hidden_size"] = 64
    command = [sys.executable, "-m", "alignkit", "sft", str(write_recipe(tiny_recipe))]
    optimizer = 350_000  # bytes: the weights fit, and the optimizer's state does not
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (optimizer, resource.RLIM_INFINITY)),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "the checkpoint of step 2 could not be written" in last and "last good checkpoint: none yet" in last
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert Run(tmp_path / "run").state == "failed"
    again = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "it begins anew" in again.stderr


def test_another_number_of_processes_goes_on_and_says_that_it_is_not_exact(
    tiny_recipe, write_recipe, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_recipe["training"] |= {
        "max_steps": 6,
        "save_steps": 2,
        "global_batch_size": 8,
        "per_device_train_batch_size": 4,
    }
    path = write_recipe(tiny_recipe)
    with monkeypatch.context() as context:
        stop_after(context, 4)
        with pytest.raises(Interrupted):
            alignkit.train(alignkit.load_recipe(path))
    done = cli("sft", path, "--resume", "--accelerate", "cpu")
    assert done.returncode == 0, done.stderr
    assert "no longer exact: 2 processes now, 1 when the checkpoint was written" in done.stderr
    assert [line["step"] for line in Run(tmp_path / "run").metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6]
