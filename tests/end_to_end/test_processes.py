"""Several processes of one run: the same numbers as one, and all of them end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from alignkit.runs import Run

CLI = [str(Path(sys.executable).parent / "alignkit")]
TWO_MACHINES = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
machine_rank: 0
num_machines: 2
num_processes: 2
mixed_precision: "no"
use_cpu: true
main_process_port: {port}
"""
# Each leaves an incomplete batch and an incomplete window at the end of each epoch: 45 rows, 8 a step, 2 at a time.
SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation, by length": {},
    "packed": {"packing": True, "max_length": 40, "per_device_train_batch_size": 1, "global_batch_size": 4},
    "adapter, at random": {"train_sampling_strategy": "random", "per_device_train_batch_size": 4},
}


def recipe_of(tiny_recipe: dict[str, Any], name: str, output_dir: str) -> dict[str, Any]:
    training = {"num_train_epochs": 2, "global_batch_size": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    tiny_recipe["training"] = {**training, "max_length": 48, "logging_steps": 1, **SETTINGS[name]}
    tiny_recipe["data"] = {
        "train": [{"generate": "addition", "options": {"rows": 30}},
                  {"generate": "addition", "options": {"rows": 15, "digits": 9, "seed": 1}}],
        "eval": [{"generate": "addition", "options": {"rows": 11, "split": "test"}}],
    }  # fmt: skip
    if "adapter" in name:
        tiny_recipe["adapter"] = {"r": 4}
    return {**tiny_recipe, "output_dir": output_dir}


def curve(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in lines]


def assert_same(one: Path, other: Path) -> None:
    assert [step for step, _ in curve(one)] == [step for step, _ in curve(other)]
    for (_, loss), (_, loss_too) in zip(curve(one), curve(other), strict=True):
        assert loss_too == pytest.approx(loss, abs=1e-4)
    for file in ("model.safetensors", "adapter_model.safetensors"):
        if (one / "model" / file).exists():
            weights, others = load_file(one / "model" / file), load_file(other / "model" / file)
            assert max((weights[name] - others[name]).abs().max().item() for name in weights) < 1e-4
    tokens = [json.loads((run / "manifest.json").read_text())["result"]["tokens"] for run in (one, other)]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_learn_what_one_learns(name: str, tiny_recipe, write_recipe, cli, tmp_path: Path) -> None:
    one = cli("sft", write_recipe(recipe_of(tiny_recipe, name, "one")))
    two = cli("sft", write_recipe(recipe_of(tiny_recipe, name, "two")), "--accelerate", "cpu")
    assert one.returncode == 0 and two.returncode == 0, one.stderr + two.stderr
    assert_same(tmp_path / "one", tmp_path / "two")
    assert two.stdout.count("report:") == 1  # one process speaks
    assert two.stderr.count("reading the tokenizer") == 1


def start(*words: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLI, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_plan_beside_a_run_does_not_wait_for_the_other_process(
    tiny_recipe, write_recipe, cli, tmp_path: Path
) -> None:
    """It is made when the processes have parted: building its trainer must not set up a group again."""
    done = cli("sft", write_recipe(tiny_recipe), "--accelerate", "cpu", timeout=120, ALIGNKIT_NO_PLAN="")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/manifest.json").read_text())["result"]["planned_peak_memory_bytes"] > 0
    assert not (tmp_path / "unwritten").exists()


def test_two_machines_learn_what_one_process_learns(tiny_recipe, write_recipe, cli, tmp_path: Path) -> None:
    name = "accumulation, by length"
    assert cli("sft", write_recipe(recipe_of(tiny_recipe, name, "one"))).returncode == 0
    (tmp_path / "machines.yaml").write_text(TWO_MACHINES.format(port=free_port()))
    words = ["sft", write_recipe(recipe_of(tiny_recipe, name, "machines")), "--accelerate", "machines.yaml"]
    machines = [start(*words, cwd=tmp_path, NODE_RANK=str(rank)) for rank in (1, 0)]
    (out_1, err_1), (out_0, err_0) = (machine.communicate(timeout=300) for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], err_0 + err_1
    assert out_1 == "" and "report:" in out_0
    assert_same(tmp_path / "one", tmp_path / "machines")


# ---------------------------------------------------------------------- endings
def long_run(tiny_recipe: dict[str, Any], tmp_path: Path, write: Callable[..., Path]) -> subprocess.Popen[str]:
    """Two ranks in the middle of a run that would take minutes."""
    recipe = recipe_of(tiny_recipe, "accumulation, by length", "run")
    recipe["training"] |= {"num_train_epochs": 5000, "save_steps": 5, "save_total_limit": 1}
    running = start("sft", write(recipe), "--accelerate", "cpu", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return running


def ranks_of(running: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(running.pid).children()
    return sorted((child for child in children if "alignkit.rank" in child.cmdline()), key=lambda child: child.pid)


def test_a_rank_that_dies_ends_all_and_is_named(tiny_recipe, write_recipe, tmp_path: Path) -> None:
    running = long_run(tiny_recipe, tmp_path, write_recipe)
    first, second = ranks_of(running)
    second.kill()
    began = time.monotonic()
    _, errors = running.communicate(timeout=60)
    assert time.monotonic() - began < 30  # seconds, on a machine however busy
    assert running.returncode == 1
    assert errors.splitlines()[-1] == "error: rank 1 was killed by SIGKILL; the other ranks were ended"
    assert not first.is_running()
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["state"] == "failed" and "rank 1" in state["error"] and "--resume" in state["resume"]


def test_a_request_to_stop_reaches_all_and_the_run_goes_on(tiny_recipe, write_recipe, cli, tmp_path: Path) -> None:
    running = long_run(tiny_recipe, tmp_path, write_recipe)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "--accelerate cpu --resume" in errors.splitlines()[-1]
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["state"] == "interrupted"
    checkpoint = max(int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"after step {checkpoint}" in state["error"]  # the step was finished, and saved by all of them


def test_when_the_launcher_is_killed_the_ranks_stop_and_hold_the_folder_till_then(
    tiny_recipe, write_recipe, tmp_path: Path
) -> None:
    running = long_run(tiny_recipe, tmp_path, write_recipe)
    ranks = ranks_of(running)
    running.kill()
    running.wait()  # not communicate(): the ranks have its pipes, and their end would be waited for
    assert Run(tmp_path / "run").state == "running"  # they have yet to finish their step and to save
    running.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    assert Run(tmp_path / "run").state == "interrupted"


def test_what_is_refused(tiny_recipe, write_recipe, cli, tmp_path: Path) -> None:
    path = write_recipe(recipe_of(tiny_recipe, "accumulation, by length", "run"))
    done = cli("sft", path, "--accelerate", "cpuu")
    assert (done.returncode, done.stderr) == (2, "error: --accelerate: no Accelerate config cpuu; did you mean cpu?\n")
    done = cli("sft", path, "--accelerate", "cpu", "--set", "training.global_batch_size=10")
    assert done.returncode == 2
    assert "training.global_batch_size: 10 is not a multiple of 4: 2 a device × 2 processes (cpu.yaml)" in done.stderr
    (tmp_path / "half.yaml").write_text("mixed_precision: bf16\nnum_processes: 2\nuse_cpu: true\n")
    done = cli("sft", path, "--accelerate", "half.yaml")
    assert done.returncode == 2 and "half.yaml: mixed_precision: the recipe decides the precision" in done.stderr
    (tmp_path / "machines.yaml").write_text(TWO_MACHINES.format(port=29500))
    done = cli("sft", path, "--accelerate", "machines.yaml", NODE_RANK="first")
    assert done.returncode == 2
    assert done.stderr == "error: machines.yaml: machine_rank: must be a whole number, got 'first'\n"
    # What only a rank can find out comes as one line too, and nothing stays behind.
    done = cli("sft", path, "--accelerate", "cpu", "--set", "training.max_length=4")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
