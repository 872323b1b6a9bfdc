"""What the doctor finds in made-up run folders: one oddity each, none in a good run, no crash on ruins."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.doctor import as_text, examine
from alignkit.runs import Run

Line = dict[str, Any]
STEPS = 60


def good(step: int) -> Line:
    chance = random.Random(step)
    return {
        "step": step,
        "loss": 0.5 + 2 * math.exp(-step / 12) + chance.gauss(0, 0.03),
        "grad_norm": abs(chance.gauss(1, 0.2)),
        "learning_rate": 1e-4 * (1 - step / (STEPS + 1)),
        "tokens_per_second": chance.gauss(1000, 30),
    }


def rewarded(step: int) -> Line:
    chance = random.Random(step)
    reward = 0.8 * step / STEPS + chance.gauss(0, 0.02)
    return {
        **good(step),
        "reward": reward,
        "reward_std": 0.3,
        "kl": 0.001 * step,
        "reward_wait_s": 0.1,
        "step_time": 2.0,
    }


def folder(
    path: Path, line: Callable[[int], Line] = good, *, evals: dict[int, float] | None = None, **state: Any
) -> Path:
    run = Run(path / "run")
    run.path.mkdir(parents=True)
    lines = [line(step) for step in range(1, STEPS + 1)]
    lines += [{"step": step, "eval_loss": value} for step, value in (evals or {}).items()]
    run.metrics_path.write_text("".join(json.dumps(one) + "\n" for one in sorted(lines, key=lambda one: one["step"])))
    method = "grpo" if "reward" in lines[0] else "sft"
    run.recipe_path.write_text(f"method: {method}\ntraining: {{learning_rate: 1.0e-4, max_grad_norm: 1.0}}\n")
    run.update_manifest({"method": method})
    run.state_path.write_text(json.dumps({"state": "interrupted", "error": "stopped", "resume": "R --resume", **state}))
    run.log_path.write_text("2026-01-01 00:00:00,000 INFO alignkit: loading the libraries\n")
    return run.path


def odd(path: Path) -> dict[str, str]:
    return {finding.kind: f"{finding.what} {finding.advice}" for finding in examine(path).odd}


@pytest.mark.parametrize("line", [good, rewarded])
def test_a_run_as_it_should_be(tmp_path: Path, line: Callable[[int], Line]) -> None:
    path = folder(tmp_path, line, evals={0: 2.5, 30: 0.8, 60: 0.6})
    assert odd(path) == {}
    assert "nothing odd found" in as_text(examine(path))


def late(step: int) -> bool:
    return step > STEPS // 2


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("diverging", lambda s: {"loss": 2.5 - 0.03 * s if not late(s) else 1.6 + 0.2 * (s - 30)}, "where it began"),
        ("flat", lambda s: {"loss": 2.5 + random.Random(s).gauss(0, 0.001)}, "hardly moved"),
        ("no_number", lambda s: {"loss": None} if s == 40 else {}, "at step 40"),
        ("grad_spikes", lambda s: {"grad_norm": 240.0} if s in (20, 41) else {}, "steps 20, 41. max_grad_norm 1 cut"),
        ("no_gradient", lambda s: {"grad_norm": 0.0}, "exactly 0"),
        ("rate_zero", lambda s: {"learning_rate": 0.0}, "every logged step"),
        ("rate_zero", lambda s: {"learning_rate": 0.0} if late(s) else {}, "since step 31: the last 30"),
        ("slower", lambda s: {"tokens_per_second": 300.0} if late(s) else {}, "300 at the end"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_training(tmp_path: Path, kind: str, change: Callable[[int], Line], words: str) -> None:
    found = odd(folder(tmp_path, lambda step: {**good(step), **change(step)}))
    assert found.keys() == {kind} and words in found[kind], found


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("dead_reward", lambda s: {"reward": 0.0, "reward_std": 0.0}, "was 0 for every completion at every"),
        ("dead_reward", lambda s: {"reward": 1.0, "reward_std": 0.0} if s > 40 else {},
         "was 1 for every completion since step 41"),
        ("no_reward", lambda s: {"rewards/judge/none": 0.4}, "judge gave no value for 40%"),
        ("reward_falls", lambda s: {"reward": 0.8 - 0.02 * abs(s - 30)}, "from its best"),
        ("kl", lambda s: {"kl": 0.01 * 1.15**s}, "nats a token, above 1 since step"),
        ("starved", lambda s: {"reward_wait_s": 1.6}, "80% of each step"),
    ],
)  # fmt: skip
def test_what_goes_wrong_with_rewards(tmp_path: Path, kind: str, change: Callable[[int], Line], words: str) -> None:
    found = odd(folder(tmp_path, lambda step: {**rewarded(step), **change(step)}))
    assert kind in found and words in found[kind], found


def test_held_out_loss(tmp_path: Path) -> None:
    found = odd(folder(tmp_path, evals={0: 2.5, 15: 0.9, 30: 0.7, 45: 0.9, 60: 1.3}))
    assert found.keys() == {"overfitting"} and "best at step 30 (0.7000) and is 1.300" in found["overfitting"]
    found = odd(folder(tmp_path / "b", evals={0: 0.5, 30: 0.7, 60: 0.9}))
    assert found.keys() == {"worse_held_out"}


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("not_finite", "the loss is nan at step 61 (examples: a.jsonl:3, a.jsonl:9); last good checkpoint: none yet",
         "became nan"),
        ("out_of_memory", "out of memory on cuda:0, with 8,000M parameters (40M trained) and 8 × up to 4096 tokens at "
         "once; try a smaller training.per_device_train_batch_size", "the device has 22.0 GiB, which is too little"),
        ("disk_full", "OSError: [Errno 28] No space left on device", "save_total_limit"),
        ("not_writable", "OSError: [Errno 30] Read-only file system", "writable again"),
        ("reward_failed", "the reward f gave no usable reward for 9 of the last 10 samples", "reward-test"),
        ("rank_died", "rank 1 was killed (SIGKILL); the other ranks were ended", "exit code -9"),
        ("failed", "RuntimeError: CUDA error: device-side assert triggered", "out of range"),
        ("failed", "KeyError: 'x'", "it was raised at /u/rewards.py:7"),
    ],
)  # fmt: skip
def test_how_a_run_failed(tmp_path: Path, kind: str, error: str, words: str) -> None:
    path = folder(tmp_path, state="failed", error=error)
    with (path / "log.txt").open("a") as file:
        file.write("Traceback (most recent call last):\n  File \"/u/rewards.py\", line 7, in f\nKeyError: 'x'\n")
    held = {
        "device_memory_bytes": 22 * 2**30,
        "planned_peak_memory_bytes": 30 * 2**30,
        "planned_parts": {"weights": 2**34},
    }
    Run(path).update_manifest({"out_of_memory": held})
    found = odd(path)
    assert words in found[kind] and len(found) == 1, found
    if kind not in ("rank_died",):
        assert "R --resume" in found[kind] or kind in ("not_finite", "out_of_memory")


def test_alarms_of_the_run_itself_are_told_once(tmp_path: Path) -> None:
    path = folder(tmp_path, rewarded)
    with (path / "log.txt").open("a") as file:
        for number in (12.1, 37.5):
            file.write(f"2026-01-01 00:00:01,000 WARNING alignkit.ppo: a token became {number} times as likely\n")
            file.write("2026-01-01 00:00:01,000 WARNING transformers.modeling_utils: LOAD REPORT\n")
    (finding,) = examine(path).odd
    assert finding.what == "A token became 37.5 times as likely (told 2 times)"


def test_scores(tmp_path: Path) -> None:
    path = folder(tmp_path, state="finished")
    (path / "model").mkdir()
    (path / "model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (path / "evaluation").mkdir()
    common = {"name": "t", "task": "generation", "split": "eval"}
    lower, alike = {"value": -10, "ci95": [-12, -8]}, {"value": -0.01, "ci95": [-0.05, 0.03]}
    scores = [
        {**common, "model": "tuned", "metric": "truncated_share", "value": 0.6},
        {**common, "model": "baseline", "metric": "bleu", "value": 30.0},
        {**common, "model": "tuned", "metric": "bleu", "value": 20.0, "difference": lower},
        {**common, "model": "baseline", "metric": "rougeL", "value": 0.3},
        {
            **common,
            "model": "tuned",
            "metric": "rougeL",
            "value": 0.29,
            "difference": alike,
        },
    ]
    (path / "evaluation" / "scores.json").write_text(json.dumps(scores))
    found = odd(path)
    assert found.keys() == {"cut_off", "worse"} and "bleu got worse: 30.00 before" in found["worse"], found
    apart = [
        dict(scores[1], ci95=[29, 31], metric="chrf"),
        dict(scores[1], ci95=[20, 25], metric="chrf", model="tuned"),
    ]
    (path / "evaluation" / "scores.json").write_text(json.dumps([*scores[:1], *apart]))
    assert "chrf got worse" in odd(path)["worse"]


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "metrics.jsonl", "recipe.yaml", "log.txt"])
def test_files_that_are_missing_or_torn(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path)
    whole = (path / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"\x00\xff\xfe{", b"[1, 2]", b"", None):
        if content is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content)
        assert as_text(examine(path)).startswith(str(path))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert odd(empty).keys() == {"empty"}
