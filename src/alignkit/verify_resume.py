"""Whether a recipe's run, killed and gone on with, comes to what it comes to undisturbed: tried, not promised.

A short version of the recipe is run straight through, then once more with real SIGKILLs: at random moments of random
steps, and while a checkpoint is being written. The two runs are then compared bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignkit import methods
from alignkit.checkpoints import ASIDE, by_step
from alignkit.errors import EXIT_INTERRUPTED, RunFailed, UserError
from alignkit.recipe import Recipe, dump, load_mapping
from alignkit.runs import Run
from alignkit.sameness import Verdict, compare_runs

POLL_S = 0.001
SAVE_EVERY = 2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kill:
    """What a run was killed in, and where it stood then."""

    moment: str  # "a step" or "a save"
    step: int
    newest_checkpoint: int | None

    def __str__(self) -> str:
        after = (
            "before its first checkpoint"
            if self.newest_checkpoint is None
            else (f"its newest checkpoint is of step {self.newest_checkpoint}")
        )
        return f"killed in {self.moment} after step {self.step}; {after}"


@dataclass(frozen=True)
class Result:
    """What came of it."""

    verdicts: list[Verdict]
    kills: list[Kill] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return all(verdict.same for verdict in self.verdicts)


def verify(
    recipe: Recipe, folder: Path, say: Say, *, steps: int = 8, kills: int = 2, seed: int = 0, words: Sequence[str] = ()
) -> Result:
    """Run it both ways in `folder` and compare.

    Args:
        steps: optimizer steps of each run; there is a checkpoint after every second one.
        kills: SIGKILLs of the second run, half of them during a save.
        seed: of the moments of the kills.
        words: further words of the training command, such as `--accelerate cpu`.

    Raises:
        UserError: what the recipe's own command refuses.
        RunFailed: a run that fails without being killed.
    """
    straight, stopped = folder / "straight", folder / "stopped"
    commands = {run: prepared(recipe, run, steps, words) for run in (straight, stopped)}
    began = time.monotonic()
    _finish(commands[straight], straight)
    say(f"straight through: {steps} steps in {time.monotonic() - began:.0f} s")
    done = _killed_and_finished(commands[stopped], stopped, steps, kills, random.Random(seed), say)
    return Result(compare_runs(straight, stopped), done)


def _short(recipe: Recipe, output: Path, steps: int) -> Recipe:
    """The recipe over `steps` steps, all of them logged, without what only costs time here."""
    values = copy.deepcopy(recipe.resolved())
    training = values["training"]
    wanted = {
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": SAVE_EVERY,
        "eval_steps": SAVE_EVERY,
        "save_total_limit": 2,
        "report_to": "none",
        "push_to_hub": False,
        "save_only_model": False,
    }
    training |= {name: value for name, value in wanted.items() if name in training}
    if training.get("eval_strategy") not in (None, "no"):
        training["eval_strategy"] = "steps"
    values |= {"output_dir": str(output), "evaluation": []}
    return load_mapping(values, methods.recipe_classes(), base_dir=recipe.base_dir)


def prepared(recipe: Recipe, run: Path, steps: int, words: Sequence[str] = ()) -> list[str]:
    """The command that trains the recipe's short version into `run`; its YAML is written beside that folder."""
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_suffix(".yaml")
    path.write_text(dump(_short(recipe, run, steps)), encoding="utf-8")
    return [sys.executable, "-m", "alignkit", recipe.method, str(path), *words]


# ---------------------------------------------------------------------- processes
def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The command as a group of processes of its own, so that a kill reaches all that it starts."""
    environment = {**os.environ, "ALIGNKIT_NO_PLAN": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and to all that it started, ranks in sessions of their own among them."""
    for pid in _family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _family(root: int) -> list[int]:
    import psutil

    try:
        parent = psutil.Process(root)
        return [root, *(child.pid for child in parent.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _finish(command: Sequence[str], run: Path) -> None:
    log = run.with_suffix(".log")
    process = start(command, log)
    try:
        code = process.wait()
    except BaseException:
        kill_all(process)
        raise
    if code:
        refuse(code, log)


def refuse(code: int, log: Path) -> None:
    """Raise what a run that ended with `code` said last."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors or lines[-1:] or [f"exit code {code}"]
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    raise UserError("\n".join(said)) if errors and code == 2 else RunFailed(f"the run failed: {said[-1]}")


def _killed_and_finished(
    command: Sequence[str], run: Path, steps: int, kills: int, rng: random.Random, say: Say
) -> list[Kill]:
    """Start, kill, go on, and so on, then let it finish. A run that is done before its kill counts as none."""
    done: list[Kill] = []
    for number in range(kills):
        low, high = number * steps // kills, (number + 1) * steps // kills - 1  # spread over the whole run
        step = rng.randint(low, max(low, high))
        words = ["--resume"] if run.exists() and any(run.iterdir()) else []
        process = start([*command, *words], run.with_suffix(".log"))
        try:
            kill = killed_at(process, run, step, in_save=bool(number % 2), rng=rng)
        except BaseException:
            kill_all(process)
            raise
        if kill is None:
            if process.returncode:
                refuse(process.returncode, run.with_suffix(".log"))
            break
        done.append(kill)
        say(str(kill))
    if Run(run).state != "finished":
        _finish([*command, "--resume"], run)
    return done


def killed_at(
    process: subprocess.Popen[bytes], run: Path, step: int, *, in_save: bool, rng: random.Random
) -> Kill | None:
    """Wait for `step` (or the first save after it), and a random moment longer, then kill; None if it ended before."""
    folder = Run(run)
    while process.poll() is None:
        aside = folder.checkpoints_dir / ASIDE
        reached = _last_step(folder) >= step
        if reached and (aside.exists() if in_save else True):
            time.sleep(rng.uniform(0, 0.03) if in_save else rng.uniform(0, 0.1))
            if process.poll() is not None:
                return None
            kill_all(process)
            newest = by_step(folder.checkpoints_dir)
            moment = "a save" if aside.exists() else "a step"
            return Kill(moment, _last_step(folder), newest[0][0] if newest else None)
        time.sleep(POLL_S)
    return None


def _last_step(run: Run) -> int:
    """The last step in metrics.jsonl; -1 before there is one."""
    try:
        with run.metrics_path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return -1
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            value: Any = json.loads(line)
            if isinstance(value, dict):
                return int(value.get("step", -1))
    return -1
