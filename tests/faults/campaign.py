"""Faults of every kind on every method, with real processes and real kills: what was tried, and what survived.

    python tests/faults/campaign.py                 # the table of the README; about an hour on two cores
    python tests/faults/campaign.py --only dpo      # one method

A run survives a fault when, gone on with, it ends bit for bit as the run that nothing disturbed, or when it is refused
with exit code 2 and a line that says why. After each fault the folder must not say that it is running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cases import STEPS, cases

from alignkit import api
from alignkit.checkpoints import by_step, fault
from alignkit.runs import Run
from alignkit.sameness import compare_runs
from alignkit.verify_resume import kill_all, killed_at, prepared, start, verify

FAULTS = ("kill in a step", "kill in a save", "truncated", "bit flipped", "all damaged", "full disk", "read-only")
RANKED = ("kill in a step, 2 processes", "kill in a save, 2 processes", "dying rank")
TWO = ["--accelerate", "cpu"]


@dataclass
class Tally:
    """What was tried on one method, by fault: each entry is whether it survived."""

    tried: dict[str, list[bool]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, fault_name: str, why: str | None) -> None:
        """`why` is what went wrong; None: it survived."""
        self.tried.setdefault(fault_name, []).append(why is None)
        if why is not None:
            self.failures.append(f"{fault_name}: {why}")


def campaign(
    name: str, recipe: dict[str, Any], folder: Path, *, kills: int, faults: tuple[str, ...], seed: int = 0
) -> Tally:
    """Try `faults` on one case; `kills` SIGKILLs on one process, and as many on two."""
    tally, loaded = Tally(), api.load_recipe(recipe)
    rng = random.Random(f"{name} {seed}")
    for words, suffix in ((), ""), (TWO, ", 2 processes"):
        if not any(fault_name.endswith(suffix) and fault_name.startswith("kill") for fault_name in faults):
            continue
        if suffix == "" and not {"kill in a step", "kill in a save"} & set(faults):
            continue
        place = folder / ("two" if words else "one")
        result = verify(loaded, place, _quiet, steps=STEPS, kills=kills, seed=rng.randint(0, 10**6), words=words)
        wrong = [f"{verdict.part}: {verdict.detail}" for verdict in result.verdicts if not verdict.same]
        for kill in result.kills:
            tally.add(f"kill in {kill.moment}{suffix}", "; ".join(wrong) or None)
    for fault_name, attempt in ATTEMPTS.items():
        if fault_name in faults:
            words = TWO if fault_name == "dying rank" else ()
            straight = _straight(loaded, folder, words)
            tally.add(fault_name, attempt(Attempt(loaded, straight, folder / fault_name.replace(" ", "-"), rng, words)))
    return tally


def _quiet(_: str) -> None:
    pass


def _straight(loaded: Any, folder: Path, words: Any) -> Path:
    """The run that nothing disturbs, made where the kills did not make it already."""
    run = folder / ("two" if words else "one") / "straight"
    if not run.exists():
        command = prepared(loaded, run, STEPS, words)
        assert subprocess.run(command, env=_environment(), capture_output=True, check=False).returncode == 0
    return run


def _environment() -> dict[str, str]:
    return {**os.environ, "ALIGNKIT_NO_PLAN": "1"}


# ---------------------------------------------------------------------- one attempt each; what it returns went wrong
@dataclass
class Attempt:
    """One fault on one run."""

    recipe: Any
    straight: Path
    folder: Path
    rng: random.Random
    words: Any = ()

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def command(self, run: Path | None = None) -> list[str]:
        return prepared(self.recipe, run or self.run, STEPS, self.words)

    def stopped(self, step: int) -> None:
        """The run, killed after `step`."""
        process = start(self.command(), self.run.with_suffix(".log"))
        assert killed_at(process, self.run, step, in_save=False, rng=self.rng), "it ended before it was killed"

    def go_on(self, *, resume: bool = True) -> subprocess.CompletedProcess[str]:
        command = [*self.command(), *(["--resume"] if resume else [])]
        return subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)

    def same(self, done: subprocess.CompletedProcess[str]) -> str | None:
        if done.returncode:
            return f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}"
        return (
            "; ".join(f"{one.part}: {one.detail}" for one in compare_runs(self.straight, self.run) if not one.same)
            or None
        )

    def refused(self, done: subprocess.CompletedProcess[str], *told: str) -> str | None:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode != 2 or not lines or "Traceback" in done.stderr:
            return f"exit {done.returncode} instead of a refusal: {done.stderr.strip()[-300:]}"
        return None if any(word in " ".join(lines) for word in told) else f"the line says another thing: {lines}"


def truncated(attempt: Attempt) -> str | None:
    return _damaged(attempt, lambda file: os.truncate(file, attempt.rng.randrange(file.stat().st_size)))


def bit_flipped(attempt: Attempt) -> str | None:
    def flip(file: Path) -> None:
        with file.open("r+b") as handle:
            place = attempt.rng.randrange(file.stat().st_size)
            handle.seek(place)
            byte = handle.read(1)[0]
            handle.seek(place)
            handle.write(bytes([byte ^ (1 << attempt.rng.randrange(8))]))

    return _damaged(attempt, flip)


def _damaged(attempt: Attempt, damage: Callable[[Path], None]) -> str | None:
    """A random file of the newest checkpoint: the run goes on from the one before, and says so."""
    attempt.stopped(STEPS // 2)
    newest = by_step(attempt.run / "checkpoints")[0][1]
    files = [file for file in newest.rglob("*") if file.is_file() and file.stat().st_size]
    damage(attempt.rng.choice(files))
    if fault(newest) is None:
        return "the damage was not seen"
    done = attempt.go_on()
    told = f"skipped {newest.name}" in done.stderr
    return attempt.same(done) or (None if told else "it does not say which checkpoint it skipped")


def all_damaged(attempt: Attempt) -> str | None:
    attempt.stopped(STEPS // 2)
    for _, path in by_step(attempt.run / "checkpoints"):
        os.truncate(path / "trainer_state.json", 10)
    return attempt.refused(attempt.go_on(), "is damaged")


def full_disk(attempt: Attempt) -> str | None:
    """A disk with room for one checkpoint and a half; then a larger one."""
    one = sum(
        file.stat().st_size for file in by_step(attempt.straight / "checkpoints")[0][1].rglob("*") if file.is_file()
    )
    beside = 600_000  # the log, the recipe, the report
    with small_disk(attempt.run, int(one * 1.5) + beside) as grow:
        done = attempt.go_on(resume=False)
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        if done.returncode not in (1, 2) or "Traceback" in done.stderr:
            return f"exit {done.returncode} on a full disk: {said}"
        if not any(words in done.stderr for words in ("free", "space", "MiB")):
            return f"the line does not speak of the disk: {said}"
        if Run(attempt.run).state == "running":
            return "the run says that it is running"
        grow(one * 20 + 20 * beside)
        return attempt.same(attempt.go_on(resume=any(attempt.run.glob("recipe.yaml"))))


def read_only(attempt: Attempt) -> str | None:
    with small_disk(attempt.run, 2**20, read_only=True):
        return attempt.refused(attempt.go_on(resume=False), "written", "writable", "Read-only")


def dying_rank(attempt: Attempt) -> str | None:
    """SIGKILL to one of two ranks: the other ends too, soon, and the run goes on."""
    import psutil

    process = start(attempt.command(), attempt.run.with_suffix(".log"))
    try:
        while process.poll() is None and not by_step(attempt.run / "checkpoints"):
            time.sleep(0.01)
        ranks = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "alignkit.rank" in child.cmdline()
        ]
        attempt.rng.choice(ranks).send_signal(signal.SIGKILL)
        code = process.wait(timeout=60)
    finally:
        if process.poll() is None:
            kill_all(process)
    said = attempt.run.with_suffix(".log").read_text(errors="replace")
    if code != 1 or "was killed by SIGKILL" not in said:
        return f"exit {code}: {said.strip().splitlines()[-1]}"
    if Run(attempt.run).state == "running":
        return "the run says that it is running"
    return attempt.same(attempt.go_on())


@contextlib.contextmanager
def small_disk(folder: Path, size: int, *, read_only: bool = False) -> Iterator[Callable[[int], None]]:
    """A tmpfs of `size` bytes at `folder`; what is yielded gives it another size. Needs the right to mount."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)

    mount("-t", "tmpfs", "-o", f"size={size},mode=755" + (",ro" if read_only else ""), "tmpfs")
    try:
        yield lambda larger: mount("-o", f"remount,size={larger}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this machine lets us have a disk of our own."""
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk", 2**20):
            return True
    except (OSError, subprocess.SubprocessError):
        return False


ATTEMPTS: dict[str, Callable[[Attempt], str | None]] = {
    "truncated": truncated,
    "bit flipped": bit_flipped,
    "all damaged": all_damaged,
    "full disk": full_disk,
    "read-only": read_only,
    "dying rank": dying_rank,
}


# ---------------------------------------------------------------------- the table
def table(tallies: dict[str, Tally]) -> str:
    """Markdown: method × fault, `survived/tried`."""
    faults = [*FAULTS, *RANKED]
    lines = ["| method | " + " | ".join(faults) + " |", "|---" * (len(faults) + 1) + "|"]
    for name, tally in tallies.items():
        cells = [f"{sum(found)}/{len(found)}" if (found := tally.tried.get(one)) else "–" for one in faults]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6, help="a method and number of processes")
    parser.add_argument("--only", nargs="+", help="methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="write what was found here, as JSON")
    options = parser.parse_args()
    faults = tuple(one for one in (*FAULTS, *RANKED) if can_mount() or one not in ("full disk", "read-only"))
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="alignkit-faults-") as folder:
        os.environ["ALIGNKIT_CACHE"] = f"{folder}/cache"
        for number, (name, recipe) in enumerate(cases(Path(folder)).items()):
            if options.only and name not in options.only:
                continue
            place = Path(folder) / f"case-{number}"
            tallies[name] = campaign(name, recipe, place, kills=options.kills, faults=faults, seed=options.seed)
            print(f"{name}: {tallies[name].tried} {tallies[name].failures}", file=sys.stderr, flush=True)
            if options.save:
                options.save.write_text(json.dumps({key: vars(one) for key, one in tallies.items()}, indent=1))
            shutil.rmtree(place, ignore_errors=True)
    print(table(tallies))
    kills = sum(
        len(found) for one in tallies.values() for fault_name, found in one.tried.items() if "kill" in fault_name
    )
    print(f"\n{kills} kills; {sum(len(one.failures) for one in tallies.values())} failures")
    sys.exit(any(one.failures for one in tallies.values()))


if __name__ == "__main__":
    main()
