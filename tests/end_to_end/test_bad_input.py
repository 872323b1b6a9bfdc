"""Every row of "what bad input gets": exit 2, and on stderr only `error:` lines that name file, line and field."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def refused(done: subprocess.CompletedProcess[str], *wanted: str) -> str:
    """Assert that the command was refused as promised; returns its error lines."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("error: ") for line in lines), done.stderr
    assert done.stdout == ""
    for text in wanted:
        assert text in done.stderr, done.stderr
    return done.stderr


# ---------------------------------------------------------------------- the recipe
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("training", "learning_rat", 1e-3), ["training.learning_rat", "did you mean", "learning_rate"]),
        (("model", "attn_implementaton", "sdpa"), ["model.attn_implementaton", "attn_implementation"]),
        (("training", "optim", "adamw_torc"), ["training.optim", "adamw_torch"]),
        (("training", "learning_rate", "fast"), ["training.learning_rate", "fast"]),
        (("training", "learning_rate", -1), ["training.learning_rate"]),
        (("training", "per_device_train_batch_size", 0), ["training.per_device_train_batch_size"]),
        (("adapter", "r", 0), ["adapter.r"]),
        (("quantization", "load_in_4bit", "yes please"), ["quantization.load_in_4bit"]),
        (("training", "output_dir", "elsewhere"), ["training.output_dir", "output_dir"]),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    cli: Cli,
    tiny_recipe: dict[str, Any],
    write_recipe: Callable[..., Path],
    change: tuple[str, str, Any],
    wanted: list[str],
) -> None:
    section, field, value = change
    tiny_recipe.setdefault(section, {})[field] = value
    path = write_recipe(tiny_recipe)
    line = next(
        number for number, text in enumerate(path.read_text().splitlines(), 1) if text.strip().startswith(f"{field}:")
    )
    refused(cli("sft", path), f"recipe.yaml:{line}", *wanted)
    assert not (path.parent / "run").exists()


def test_learning_rate_zero_is_legal(cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path]) -> None:
    tiny_recipe["training"]["learning_rate"] = 0
    assert cli("check", write_recipe(tiny_recipe)).returncode == 0


def test_all_problems_are_told_at_once(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path]
) -> None:
    tiny_recipe["training"]["learning_rate"] = -1
    tiny_recipe["data"]["loss_onn"] = "all"
    tiny_recipe["modle"] = {}
    text = refused(cli("sft", write_recipe(tiny_recipe)), "training.learning_rate", "data.loss_onn", "modle")
    assert len(text.splitlines()) >= 3


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"quantization": {"load_in_4bit": True, "load_in_8bit": True}}, "8"),
        ({"training": {"global_batch_size": 12, "per_device_train_batch_size": 8}}, "global_batch_size"),
        ({"data": {"streaming": True}, "training": {"max_steps": None}}, "max_steps"),
    ],
)
def test_contradictions_are_refused(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], changes: dict[str, Any], wanted: str
) -> None:
    for section, values in changes.items():
        merged = {**tiny_recipe.get(section, {}), **values}
        tiny_recipe[section] = {key: value for key, value in merged.items() if value is not None}
    refused(cli("sft", write_recipe(tiny_recipe)), wanted)


def test_a_recipe_of_another_method_or_none_at_all(cli: Cli, tmp_path: Path) -> None:
    refused(cli("sft", tmp_path / "nowhere.yaml"), "nowhere.yaml")
    (tmp_path / "twice.yaml").write_text("method: sft\nseed: 1\nseed: 2\n")
    refused(cli("sft", tmp_path / "twice.yaml"), "twice.yaml:3", "seed")
    (tmp_path / "broken.yaml").write_text("method: sft\n  model: [\n")
    refused(cli("sft", tmp_path / "broken.yaml"), "broken.yaml:2")
    (tmp_path / "other.yaml").write_text("method: sff\n")
    refused(cli("sft", tmp_path / "other.yaml"), "other.yaml:1", "method")


def test_a_mistyped_command_gets_a_suggestion(cli: Cli) -> None:
    refused(cli("stf", "x.yaml"), "sft")


# ---------------------------------------------------------------------- the data
GOOD = {"prompt": "1+1=", "completion": "2"}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, ["data.jsonl"]),
        ("", ["data.jsonl", "empty"]),
        (json.dumps(GOOD) + "\n" + '{"prompt": "1+2=", "compl\n' + json.dumps(GOOD) + "\n", ["data.jsonl:2"]),
        (json.dumps({"frage": "a", "antwort": "b"}) + "\n", ["frage", "antwort", "columns"]),
        (
            json.dumps({"messages": [{"role": "usr", "content": "hi"}, {"role": "assistant", "content": "ho"}]}) + "\n",
            ["data.jsonl:1", "usr"],
        ),
        (json.dumps({"prompt": "1+1=", "completion": "  "}) + "\n", ["empty"]),
        (b'{"prompt": "caf\xe9", "completion": "x"}\n', ["data.jsonl:1", "UTF-8"]),
    ],
)
def test_bad_data_files(
    cli: Cli,
    tiny_recipe: dict[str, Any],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
    content: str | bytes | None,
    wanted: list[str],
) -> None:
    if content is not None:
        (tmp_path / "data.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    tiny_recipe["data"] = {"train": [{"path": "data.jsonl"}]}
    refused(cli("sft", write_recipe(tiny_recipe)), *wanted)
    assert not (tmp_path / "run").exists()


def test_prompts_that_leave_no_room(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], write_jsonl: Callable[..., Path]
) -> None:
    write_jsonl([{"prompt": "x" * 80, "completion": "yes"}] * 4)
    tiny_recipe["data"] = {"train": [{"path": "data.jsonl"}]}
    tiny_recipe["training"]["max_length"] = 32
    refused(cli("sft", write_recipe(tiny_recipe)), "max_length", "32")
    assert not Path(tiny_recipe["output_dir"]).exists()


# ---------------------------------------------------------------------- the model
def test_model_folders(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    def start(path: str, **env: str) -> subprocess.CompletedProcess[str]:
        tiny_recipe["model"] = {"model_name_or_path": path}
        return cli("sft", write_recipe(tiny_recipe), **env)

    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "model.safetensors").unlink()
    refused(start("./bare"), "recipe.yaml:", "model.model_name_or_path", "weights")
    mute = tmp_path / "mute"
    shutil.copytree(tiny_model, mute)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (mute / name).unlink(missing_ok=True)
    refused(start("./mute"), "recipe.yaml:", "model.tokenizer_name_or_path", "./mute")
    refused(start("./missing"), "model.model_name_or_path", "missing")
    refused(start("somebody/something-unknown", HF_HUB_OFFLINE="1"), "model.model_name_or_path", "offline")


# ---------------------------------------------------------------------- the output folder and the disk
def test_an_occupied_folder_is_not_touched(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    path = write_recipe(tiny_recipe)
    refused(cli("sft", path), "output_dir")
    refused(cli("sft", path, "--overwrite"), "output_dir", "thesis.tex")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_a_locked_folder(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from alignkit.runs import Run

    with Run(tmp_path / "run").hold():
        refused(cli("sft", write_recipe(tiny_recipe)), "another process")


def test_a_full_disk_is_found_before_training(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        tiny_recipe["output_dir"] = str(small / "run")
        refused(cli("sft", write_recipe(tiny_recipe)), "MiB free", "output_dir")
        assert not (small / "run").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_no_one_foresaw_is_one_line_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from alignkit import cli, methods\n"
         "def broken(*_): raise ValueError('odd')\n"
         "methods.load_recipe = broken\ncli.main(['check', 'x.yaml'])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ValueError: odd (details: ") and done.stderr.count("\n") == 1
    log = Path(done.stderr.rsplit("details: ", 1)[1].strip().rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir('../gone'); from alignkit import cli; cli.main(['check', 'x.yaml'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the current folder no longer exists; change to another\n"
