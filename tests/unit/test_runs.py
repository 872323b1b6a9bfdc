"""The run folder: who may use it, what a kill leaves, what a resume forgets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.runs import Run, require_free_space


def test_running_is_the_locks_word_not_the_files(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.state == "empty"
    code = (
        "import os, sys; from alignkit.runs import Run; run = Run(sys.argv[1])\n"
        "with run.hold():\n    run.write_state('started'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert run.state == "running"
    assert run.problem(overwrite=True, resume=True) is not None
    holder.kill()
    holder.wait()
    assert run.state == "died"
    problem = run.problem(overwrite=False, resume=False)
    assert problem is not None and "--resume" in str(problem)
    assert run.problem(overwrite=False, resume=True) is None


def test_overwriting_clears_a_runs_own_files_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.hold():
        run.recipe_path.write_text("method: sft\n")
        run.checkpoints_dir.mkdir()
        run.write_state("finished")
    (tmp_path / "notes.md").write_text("mine")
    with run.hold(overwrite=True):
        assert run.recipe_path.exists()  # holding alone removes nothing: the new run may still be refused
        run.clear()
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert not run.checkpoints_dir.exists() and not run.recipe_path.exists()


def test_a_folder_of_other_files_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.tex"), Run(tmp_path).hold(overwrite=True):
        pass


def test_metrics_survive_a_torn_last_line_and_forget_what_a_resume_repeats(tmp_path: Path) -> None:
    run = Run(tmp_path)
    lines = [{"step": step, "loss": 1.0 / (step + 1)} for step in range(5)]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "lo')
    assert run.metrics() == lines
    run.drop_metrics_after(2)
    assert run.metrics() == lines[:3]


def test_too_little_space_is_an_error_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MiB free"):
        require_free_space(tmp_path / "not" / "yet", 2**62, "the run")


def test_a_start_that_was_killed_before_training_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "log.txt").write_text("INFO alignkit: loading the libraries\n")
    assert Run(tmp_path).problem(overwrite=False, resume=False) is None


def test_a_refused_start_takes_away_only_what_it_brought(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "scores.json").write_text("[]")
    run = Run(tmp_path)
    with run.hold(overwrite=True):
        run.log_path.write_text("x")
        run.checkpoints_dir.mkdir()
        run.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation"]
    assert run.scores() == []


def test_a_refused_start_takes_away_the_folders_made_for_it_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    run = Run(tmp_path / "mine" / "runs" / "new")
    with run.hold():
        run.discard()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "/proc/none/run"])
def test_a_folder_that_cannot_be_made_is_the_users_to_mend(name: str) -> None:
    with pytest.raises(UserError, match=r"output_dir: .*cannot be written"), Run(name).hold():
        pass
