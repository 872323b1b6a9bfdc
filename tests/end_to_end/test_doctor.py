"""`alignkit doctor` on real runs that went wrong: blown up, without reward, killed, out of disk; and on a good one."""

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

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Recipe = dict[str, Any]
Write = Callable[..., Path]


def kinds(cli: Cli, run: str = "run") -> dict[str, dict[str, str]]:
    """What the doctor finds, by kind."""
    done = cli("doctor", run, "--json")
    assert done.returncode == 0, done.stderr
    return {finding["kind"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_learning_rate_that_blows_up(cli: Cli, tiny_recipe: Recipe, write_recipe: Write, write_jsonl: Write) -> None:
    write_jsonl([{"text": f"{n}+{n}={2 * n}"} for n in range(64)])
    tiny_recipe["data"] = {"train": [{"path": "data.jsonl"}]}
    tiny_recipe["training"] |= {
        "learning_rate": 1e30,
        "max_steps": 50,
        "save_steps": 1,
        "lr_scheduler_type": "constant",
    }
    assert cli("sft", write_recipe(tiny_recipe)).returncode == 1
    found = kinds(cli)["not_finite"]
    assert found["tone"] == "bad" and "became" in found["what"] and "data.jsonl:" in found["what"]
    assert '{"text": "' in found["what"]  # the row itself
    assert "lower training.learning_rate: it is 1e+30; 1e-5" in found["advice"] and "--resume" in found["advice"]
    text = cli("doctor", "run").stdout
    assert text.startswith("run: failed\n✗ At step ") and "looked at: state.json (failed); log.txt (1 start)" in text


def test_a_reward_that_is_always_0(cli: Cli, tiny_recipe: Recipe, write_recipe: Write, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text("def never(completions, **kwargs):\n    return [0.0] * len(completions)\n")
    recipe = {**tiny_recipe, "method": "grpo", "rewards": [{"file": "never.py:never"}]}
    recipe["training"] = {
        "max_steps": 3, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 3,
        "logging_steps": 1, "save_strategy": "no",
    }  # fmt: skip
    done = cli("grpo", write_recipe(recipe))
    assert done.returncode == 0, done.stderr
    found = kinds(cli)
    assert found.keys() == {"dead_reward"}  # said once: the run's own alarm says the same
    assert "was 0 for every completion at every logged step" in found["dead_reward"]["what"]
    assert "alignkit reward-test" in found["dead_reward"]["advice"]


def test_a_killed_run_and_what_it_left(cli: Cli, tiny_recipe: Recipe, write_recipe: Write, tmp_path: Path) -> None:
    tiny_recipe["training"] |= {"max_steps": 4000, "save_steps": 5}
    command = [str(Path(sys.executable).parent / "alignkit"), "sft", str(write_recipe(tiny_recipe))]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints, deadline = tmp_path / "run" / "checkpoints", time.monotonic() + 180
    while time.monotonic() < deadline and not list(checkpoints.glob("checkpoint-*")):
        time.sleep(0.1)
    assert "running" in kinds(cli)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = kinds(cli)["died"]
    assert "without a word" in found["what"] and "want of memory" in found["what"]
    assert "go on with: alignkit sft" in found["advice"] and "--resume" in found["advice"]
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{newest.name} is not whole" in kinds(cli)["checkpoint"]["what"]


FULL = """
import os
before, calls = os.fsync, []
def fsync(handle):
    calls.append(handle)
    if len(calls) > 12:
        raise OSError(28, "No space left on device")
    before(handle)
os.fsync = fsync
"""


def test_a_full_disk(cli: Cli, tiny_recipe: Recipe, write_recipe: Write, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "sitecustomize.py").write_text(FULL)
    tiny_recipe["training"] |= {"max_steps": 20, "save_steps": 1}
    path = os.pathsep.join(filter(None, [str(tmp_path / "full"), os.environ.get("PYTHONPATH")]))
    assert cli("sft", write_recipe(tiny_recipe), PYTHONPATH=path).returncode == 1
    found = kinds(cli)["disk_full"]
    assert "No space left on device" in found["what"] and "save_total_limit" in found["advice"]


def test_a_good_run(cli: Cli, tiny_recipe: Recipe, write_recipe: Write) -> None:
    tiny_recipe["training"] |= {"max_steps": 60, "learning_rate": 3e-3}
    tiny_recipe["data"]["eval_fraction"] = 0.25
    assert cli("sft", write_recipe(tiny_recipe)).returncode == 0
    done = cli("doctor", "run")
    assert "nothing odd found" in done.stdout and "60 logged steps" in done.stdout, done.stdout
    assert cli("doctor", "nowhere").returncode == 2
    code = "import sys; from alignkit.doctor import examine; from pathlib import Path; examine(Path('run')); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=write_recipe({}).parent, check=False).returncode == 0


def test_memory_that_ran_out_beside_the_plan(
    cli: Cli, tiny_recipe: Recipe, write_recipe: Write, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    short = FULL.replace('OSError(28, "No space left on device")', "MemoryError")
    (tmp_path / "small" / "sitecustomize.py").write_text(short)
    tiny_recipe["training"] |= {"max_steps": 20, "save_steps": 1}
    path = os.pathsep.join(filter(None, [str(tmp_path / "small"), os.environ.get("PYTHONPATH")]))
    done = cli("sft", write_recipe(tiny_recipe), PYTHONPATH=path, ALIGNKIT_NO_PLAN="")
    assert done.returncode == 1 and "out of memory on cpu" in done.stderr, done.stderr
    found = kinds(cli)["out_of_memory"]
    assert "The plan counts " in found["what"] and "so that something else held the rest" in found["what"], found
    assert "per_device_train_batch_size" in found["advice"]
