"""From a checked recipe to running workers. One process goes on here; the torch world is entered by its name only."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from alignkit import methods, preflight, processes, report
from alignkit.console import Voice, logged_to
from alignkit.errors import Interrupted, Problem, RunFailed, UserError
from alignkit.gpus import Gpu
from alignkit.importing import importing
from alignkit.methods.base import Method
from alignkit.model_folders import nowhere
from alignkit.recipe import EvaluationTask, Recipe
from alignkit.resume import Resumed, resumption
from alignkit.runs import Run

# Set before anything heavy is imported. A user's own setting stands.
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # How long an idle OpenMP thread spins before it sleeps. With the default, one other busy process on a small machine
    # makes training up to ten times slower; this costs a few per cent where there is none.
    "GOMP_SPINCOUNT": "10000",
}


@dataclass(frozen=True)
class Job:
    """What the worker is asked to do."""

    recipe: Recipe
    method: Method
    run: Run
    resume: bool = False
    overwrite: bool = False
    allow_changes: bool = False
    resumed: Resumed = field(default_factory=Resumed)
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    start: str | None = None  # the folder that `model.from_recipe` came to
    results: Mapping[str, str] = field(default_factory=dict)  # each recipe this one names -> where its result lies


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_changes: bool = False,
    command: Sequence[str] | None = None,
    accelerate: str | None = None,
    start: str | None = None,
    results: Mapping[str, str] | None = None,
) -> Run:
    """Train `recipe` (and first what it starts from); the run folder holds the result.

    Args:
        allow_changes: go on with a run whose recipe or data has changed; the manifest says what.
        start: the folder that `model.from_recipe` came to, where that is not to be looked for.
        results: likewise the results of other recipes that this one names; those that it lacks are looked for.
        accelerate: the name of a shipped Accelerate config, or the path of one; by default one process, this one.

    Raises:
        UserError: something the user can mend, before training.
        RunFailed: the run went wrong; the folder's state says so.
        Interrupted: stopped by a signal, after a checkpoint.
    """
    set_environment()
    run = Run(recipe.output_dir)
    config = None if accelerate is None else processes.read_config(accelerate)
    _require_shares(recipe, config)
    _require_consistent(resume=resume, overwrite=overwrite, allow_changes=allow_changes)
    follows = config is not None and config.machine_rank > 0  # another machine's process holds the folder
    if not follows and (problem := run.problem(overwrite=overwrite, resume=resume)):
        raise UserError(problem)
    job = Job(
        recipe=recipe,
        method=methods.get(recipe.method),
        run=run,
        resume=resume,
        overwrite=overwrite,
        allow_changes=allow_changes,
        command=list(sys.argv if command is None else command),
        start=start or _trained_first(recipe),
        results=_other_results(recipe, results or {}),
    )
    number = 1 if config is None else config.num_processes
    if follows:
        assert config is not None
        run.elsewhere = True
        print(f"machine {config.machine_rank + 1} of {config.num_machines}; the first one speaks", file=sys.stderr)
        processes.run(config, _going_on(job, number))
        return run
    with run.hold(overwrite=overwrite, resume=resume), logged_to(run.log_path) as warned:
        job = _going_on(job, number)
        if config is not None and config.kind != "here":
            _train_in_ranks(config, job)
            return run
        _train_here(job, warned.messages)
    return run


def _require_consistent(*, resume: bool, overwrite: bool, allow_changes: bool) -> None:
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it; give one of the two")
    if allow_changes and not resume:
        raise UserError("--allow-changes is for a run that goes on; give it with --resume")


def _going_on(job: Job, number: int) -> Job:
    """The job with where it goes on, in `number` processes."""
    if not job.resume:
        return job
    resumed = resumption(job.recipe, job.run, processes=number, allow_changes=job.allow_changes)
    return replace(job, resumed=resumed)


def _train_here(job: Job, warnings: list[str]) -> None:
    say = Voice()
    say("loading the libraries")
    try:
        with _stoppable(), importing():
            worker: Any = importlib.import_module("alignkit.worker")
    except (Interrupted, KeyboardInterrupt):
        if not job.run.recipe_path.exists():  # an earlier run in this folder stays as it was
            job.run.discard()
        raise
    worker.train(job, say, warnings)


def _require_shares(recipe: Recipe, config: processes.Processes | None) -> None:
    """The global batch must be one that the processes can share; said before any of them is started."""
    total, each = recipe.training.global_batch_size, getattr(recipe.training, "per_device_train_batch_size", None)
    if config is None or total is None or each is None or total % (each * config.num_processes) == 0:
        return
    message = f"{total} is not a multiple of {each * config.num_processes}: {each} a device × {config.num_processes}"
    number = config.num_processes
    fitting = max((size for size in range(1, each) if total % (size * number) == 0), default=None)
    hint = f"make it a multiple of {number}" if fitting is None else f"say per_device_train_batch_size: {fitting}"
    raise UserError(recipe.problem("training.global_batch_size", f"{message} processes ({config.path.name})", hint))


def _train_in_ranks(config: processes.Processes, job: Job) -> None:
    """Run the job's ranks. Rank 0 writes how the run ended; where it could not, or did not know why, this does."""
    try:
        processes.run(config, job, job.run.lock_descriptors)
    except UserError:
        if not job.run.recipe_path.exists():
            job.run.discard()
        raise
    except (RunFailed, Interrupted) as error:
        if job.run.state_path.exists():
            resume = error.resume if isinstance(error, Interrupted) else job.run.told("resume")
            state: Any = "interrupted" if isinstance(error, Interrupted) else "failed"
            job.run.write_state(state, resume=resume, error=str(error))
            report.write_report(job.run.path)
        raise


def evaluate(
    target: Recipe | str, *, tasks: Sequence[EvaluationTask] = (), out_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Evaluate what a recipe came to (beside what it started from), or a model: a folder or a Hub id.

    Raises:
        UserError: something the user can mend.
    """
    set_environment()
    folder = Path(target.output_dir) if isinstance(target, Recipe) else out_dir or Path.cwd()
    if isinstance(target, Recipe) and Run(folder).state == "running":
        raise UserError(Problem("another process is writing this run", folder, field="output_dir"))
    if isinstance(target, Recipe):
        preflight.require_tasks(target)
    elif (problem := nowhere(target)) is not None:
        raise UserError(problem)
    start = _trained_first(target) if isinstance(target, Recipe) else None
    if out_dir is not None:
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(Problem(f"cannot write there: {error.strerror}", out_dir, field="--out")) from error
    log = folder / "log.txt" if isinstance(target, Recipe) else Path(os.devnull)
    if log != Path(os.devnull):
        folder.mkdir(parents=True, exist_ok=True)
    with logged_to(log):
        say = Voice()
        say("loading the libraries")
        with _stoppable(), importing():
            worker: Any = importlib.import_module("alignkit.worker")
        return worker.evaluate(target, say, tasks=tasks, out_dir=out_dir, start=start)


def plan(
    recipe: Recipe, gpu: Gpu | str | None, reload: Callable[[list[str]], Recipe], label: str = "", **options: Any
) -> dict[str, Any]:
    """What `recipe` needs on `gpu` (None: what suits the machine and the model); see `alignkit.plan.run.plan`.

    `label` begins each line of progress.

    Raises:
        UserError: something the user can mend, or a model that cannot be simulated.
    """
    set_environment()
    with logged_to(Path(os.devnull)):
        say = Voice()
        say("loading the libraries")
        with contextlib.closing(say), _stoppable():
            with importing():
                run: Any = importlib.import_module("alignkit.plan.run")
            found: dict[str, Any] = run.plan(recipe, gpu, lambda text: say(label + text), reload, **options)
            return found


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """While the libraries load, a request to stop ends the command as Ctrl-C does; then the worker listens itself."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_environment() -> None:
    """What the libraries read from the environment when they are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _trained_first(recipe: Recipe, field: str = "model.from_recipe") -> str | None:
    """The folder with the result of the recipe that `field` names, trained now if it is not there; None for none."""
    named = recipe.inputs().get(field)
    if named is None:
        return None
    refuse_circle(recipe)
    path = recipe.base_dir / named
    other = methods.load_recipe(path)
    if field != "model.from_recipe" and other.method != "reward":
        raise UserError(recipe.problem(field, f"{path.name} trains no reward model: its method is {other.method}"))
    for run in _runs_of(other):
        trained_from = run.manifest.get("fingerprints", {}).get("recipe")
        if run.state == "finished" and trained_from == other.fingerprint():
            return str(run.model_dir)
        begun = run.state in ("interrupted", "died") and trained_from == other.fingerprint()
        if begun or run.state == "empty":
            print(f"{field} asks for {path.name}: it is trained first, into {run.path}", file=sys.stderr)
            return str(train(other.model_copy(update={"output_dir": str(run.path)}), resume=begun).model_dir)
    raise UserError(
        Problem(
            f"{path.name} was to be trained into {other.output_dir}, but that folder holds another run",
            file=recipe.path,
            field=field,
            hint="move it away, or give the other recipe another output_dir",
        )
    )


def _runs_of(other: Recipe) -> tuple[Run, Run]:
    """Where a recipe that another one names may have its result: its own folder, else one with its fingerprint."""
    return Run(other.output_dir), Run(f"{other.output_dir}-{other.fingerprint()[:8]}")


def _other_results(recipe: Recipe, known: Mapping[str, str]) -> dict[str, str]:
    """Where the results of the recipes lie that `recipe` needs besides the one it starts from; trained as above."""
    others = [(place, named) for place, named in recipe.inputs().items() if place != "model.from_recipe"]
    return {named: known.get(named) or str(_trained_first(recipe, place)) for place, named in others}


def results_there(recipe: Recipe) -> dict[str, str]:
    """The same of those that are trained already; trains nothing."""
    found = {}
    for place, named in recipe.inputs().items():
        if place == "model.from_recipe":
            continue
        other = methods.load_recipe(recipe.base_dir / named)
        for run in _runs_of(other):
            if run.state == "finished" and run.manifest.get("fingerprints", {}).get("recipe") == other.fingerprint():
                found[named] = str(run.model_dir)
    return found


def refuse_circle(recipe: Recipe, passed: tuple[Path, ...] = ()) -> None:
    """Raise UserError where following a recipe's inputs comes back to a recipe that was passed on the way."""
    passed = passed if recipe.path is None else (*passed, recipe.path.resolve())
    for place, named in recipe.inputs().items():
        path = (recipe.base_dir / named).resolve()
        if path in passed:
            names = " -> ".join(step.name for step in [*passed, path])
            raise UserError(recipe.problem(place, f"goes round in a circle: {names}"))
        refuse_circle(methods.load_recipe(path), passed)
