"""The whole training story on one page: seed, tokenizer, data, model, trainer, train, save, evaluate, report."""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import upload_folder
from transformers import EarlyStoppingCallback, set_seed
from transformers.utils import logging as transformers_logging

from alignkit import methods, processes, report
from alignkit.checkpoints import ASIDE
from alignkit.console import Voice, redirect_libraries
from alignkit.errors import Interrupted, RunFailed, UserError
from alignkit.evaluation import evaluate_run, evaluate_target
from alignkit.launch import Job
from alignkit.methods.base import Stage
from alignkit.models import (
    build_tokenizer,
    choose_precision,
    count_parameters,
    restore_adapter_dtype,
)
from alignkit.recipe import Recipe
from alignkit.record import say_plan, write_beginnings, write_endings, write_out_of_memory
from alignkit.report.card import CARD, write_card
from alignkit.resume import check_same_data
from alignkit.runs import Run, require_free_space
from alignkit.trainers import MetricsFile, Progress, StopRequests, build_arguments
from alignkit.trainers.attention import attending_by_products
from alignkit.trainers.ranks import close_group, save_trained
from alignkit.trainers.trackers import RemembersMlflow, tracked


def train(job: Job, say: Voice, warnings: list[str]) -> None:
    """Run one training job from its recipe to its report, in this process, which holds the job's run folder."""
    stop = StopRequests()
    with _ending(job, say) as told, stop.listening():
        if job.resumed.trained:
            told.began = True
            if job.recipe.tasks():
                _evaluate(job.recipe, say, start=job.start)
        else:
            story(job, told, stop, warnings)


class Told:
    """How far the story has come: what is said, and whether training began (before, the folder is left as it was)."""

    def __init__(self, say: Voice) -> None:
        self.say = say
        self.begun_at = time.time()
        self.began = False


def story(job: Job, told: Told, stop: StopRequests, warnings: list[str]) -> None:
    recipe, method, run, say, checkpoint = job.recipe, job.method, job.run, told.say, job.resumed.checkpoint
    for note in job.resumed.notes:
        say(note)
    stage = _prepared(job, say)
    resident = psutil.Process().memory_info().rss
    say("building the model")
    stage.model = method.build_model(stage)

    live, metrics = Progress(say.console), MetricsFile(run.metrics_path)
    stage.callbacks = [live, metrics, stop, RemembersMlflow(run), *_early_stopping(recipe)]
    trainer: Any = method.build_trainer(stage)
    live.attach(trainer)
    if recipe.quantization is not None:
        restore_adapter_dtype(stage.model, stage.precision.trainable_dtype)
    _require_disk(job, trainer)

    told.began = True
    if processes.is_main():
        _begin(job, stage)
    trainer.accelerator.wait_for_everyone()
    say_plan(stage, trainer, say)
    say.release()
    with (
        contextlib.closing(metrics),
        contextlib.closing(live),
        tracked(run, trainer),
        _memory_told(stage),
        attending_by_products(stage.model),
    ):
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        if stop.requested is not None:
            raise Interrupted(f"stopped by {stop.requested.name} after step {trainer.state.global_step}")
        if _has_eval(recipe) and not _evaluated_last(trainer):
            trainer.evaluate()
    sharded = save_trained(trainer, stage.tokenizer, run.model_dir)
    close_group(trainer)
    if not processes.is_main():
        return
    method.finish(stage, trainer)
    write_endings(job, stage, trainer, live, told.begun_at, resident, warnings)
    _publish(trainer, run, say)
    _measure(job, stage, trainer, sharded, say)


def evaluate(
    target: Recipe | str, say: Voice, *, tasks: Any = (), out_dir: Path | None = None, start: str | None = None
) -> list[dict[str, Any]]:
    """Evaluate a recipe's result beside its baseline, or a model; a run's report is made again with the new scores."""
    with StopRequests().listening(), contextlib.closing(say):
        scores = _evaluate(target, say, tasks=tasks, out_dir=out_dir, start=start)
    if isinstance(target, Recipe) and out_dir is None:
        report.write_report(Path(target.output_dir))
    return scores


def _evaluate(target: Recipe | str, say: Voice, *, start: str | None, **options: Any) -> list[dict[str, Any]]:
    redirect_libraries()
    transformers_logging.disable_progress_bar()
    set_seed(target.seed if isinstance(target, Recipe) else 42)

    def prepare(tokenizer: Any) -> Any:
        assert isinstance(target, Recipe)
        precision = choose_precision(target, start=start)
        stage: Any = Stage(target, Run(target.output_dir), say, precision, arguments=None, tokenizer=tokenizer)
        return methods.get(target.method).prepare(stage)

    return evaluate_target(target, start=start, prepare=prepare, say=say, **options)


# ---------------------------------------------------------------------- before training
def _prepared(job: Job, say: Voice) -> Stage:
    """Seed, precision, arguments, tokenizer and data: all that comes before the model."""
    recipe, method = job.recipe, job.method
    config_class = method.config_class()
    redirect_libraries()
    transformers_logging.disable_progress_bar()
    set_seed(recipe.seed)
    precision = choose_precision(recipe, start=job.start)
    stage = Stage(recipe, job.run, say, precision, start=job.start, results=job.results)

    def build_the_arguments() -> None:
        options: Any = {"has_eval": _has_eval(recipe), "world_size": processes.world_size()}
        stage.arguments = build_arguments(recipe, config_class, job.run.checkpoints_dir, precision, **options)
        stage.arguments.eval_on_start = (
            _has_eval(recipe) and job.resumed.checkpoint is None
        )  # else it was logged before

    # Alone, what the arguments refuse is said before the data is read. Of several processes they start the group, and
    # nothing may wait in it, and time out, while the machine's first rank prepares the data.
    alone = processes.world_size() == 1
    if alone:
        build_the_arguments()
    say("reading the tokenizer")
    stage.tokenizer = build_tokenizer(recipe, start=job.start, notes=precision.notes)
    with processes.first_on_this_machine():
        stage.data = method.prepare(stage)
    if job.resumed.checkpoint is not None:
        for change in check_same_data(recipe, job.run, stage.data.fingerprint, job.allow_changes):
            job.resumed.changes.append(change)
            say(f"no longer exact: {change}")
    if not alone:
        build_the_arguments()
    return stage


def _has_eval(recipe: Recipe) -> bool:
    return bool(recipe.data and (recipe.data.eval or recipe.data.eval_fraction))


def _begin(job: Job, stage: Stage) -> None:
    """The run folder as training finds it: an earlier run's files gone, or what was logged after the checkpoint."""
    before = job.run.manifest.get("resumed", [])
    if job.resume:
        job.run.drop_metrics_after(job.resumed.step)
    else:
        job.run.clear()
    write_beginnings(job, stage, resume_command(job))
    if job.resume:
        job.run.update_manifest({"resumed": [*before, job.resumed.record(processes.world_size())]})


def _early_stopping(recipe: Recipe) -> list[EarlyStoppingCallback]:
    training = recipe.training.resolved()
    patience = training.get("early_stopping_patience")
    if patience is None:
        return []
    return [EarlyStoppingCallback(patience, training.get("early_stopping_threshold") or 0.0)]


def _require_disk(job: Job, trainer: Any) -> None:
    """A checkpoint holds the trained weights and, as Adam's state, twice their size again."""
    _, trainable = count_parameters(trainer.model)
    kept = trainer.args.save_total_limit or 1
    require_free_space(job.run.path, trainable * 4 * (3 * kept + 1) + 2**20, "the run's checkpoints and result")


# ---------------------------------------------------------------------- during and after training
def _measure(job: Job, stage: Stage, trainer: Any, sharded: bool, say: Voice) -> None:
    """The recipe's evaluation, on the model in memory or, where this process holds a part of it, on the saved one."""
    recipe, run = job.recipe, job.run
    if not recipe.tasks():
        return
    if sharded:
        _evaluate(recipe, say, start=job.start)
    else:
        evaluate_run(recipe, run.path, trainer.model, stage.tokenizer, start=job.start, precision=stage.precision,
                     prepared=stage.data, say=say)  # fmt: skip
    _publish(trainer, run, say, only=CARD)


def _evaluated_last(trainer: Any) -> bool:
    last = trainer.state.global_step
    return any("eval_runtime" in line and line.get("step") == last for line in trainer.state.log_history)


def _publish(trainer: Any, run: Run, say: Voice, only: str | None = None) -> None:
    """Upload the result, where the recipe says so; once it is evaluated, the card alone, with its scores."""
    if not trainer.args.push_to_hub:
        return
    write_card(run.path)
    say(f"uploading the {'model card' if only else 'result'} to {trainer.hub_model_id}")
    upload_folder(
        repo_id=trainer.hub_model_id, folder_path=run.model_dir, token=trainer.args.hub_token, allow_patterns=only
    )


@contextlib.contextmanager
def _memory_told(stage: Stage) -> Iterator[None]:
    """Memory that ran out: say what took it and what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        refused = any(text in str(error) for text in ("not enough memory", "can't allocate memory"))  # a CPU's words
        if not refused and not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        total, trainable = count_parameters(stage.model)
        if processes.is_main():
            with contextlib.suppress(Exception):  # a word more for `alignkit doctor`, where there is memory to find it
                write_out_of_memory(stage)
        arguments: Any = stage.arguments
        rows, length = arguments.per_device_train_batch_size, getattr(arguments, "max_length", None) or "?"
        raise RunFailed(
            f"out of memory on {stage.precision.device}, with {total / 1e6:,.0f}M parameters ({trainable / 1e6:,.0f}M "
            f"trained) and {rows} × up to {length} tokens at once; try a smaller training.per_device_train_batch_size "
            "(with training.global_batch_size the result stays the same), training.gradient_checkpointing: true, "
            "a shorter training.max_length, an adapter, or quantization"
        ) from error


@contextlib.contextmanager
def _ending(job: Job, say: Voice) -> Iterator[Told]:
    """However the block ends: a state, a line in log.txt, a report, and one of a command's three exceptions."""
    run, told = job.run, Told(say)
    try:
        yield told
    except UserError as error:
        if told.began:  # too late for exit code 2: something was trained, and said
            line = " ".join(str(error).split())
            _settle(job, told, "failed", line)
            raise RunFailed(line) from error
        _settle(job, told, "failed", "the input was refused")
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        line = str(error) or "stopped"
        _settle(job, told, "interrupted", line)
        raise Interrupted(line, resume_command(job) if told.began else None) from error
    except Exception as error:
        logging.getLogger("alignkit").error("%s", traceback.format_exc())
        line = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error or 'no message'}"
        line = " ".join(line.split())
        kept = _settle(job, told, "failed", line)
        raise RunFailed(f"{line} (details: {run.log_path})" if kept else line) from error
    told.say.hush()
    if processes.is_main():
        run.write_state("finished")
        report.write_report(run.path)


def _settle(job: Job, told: Told, state: Any, line: str) -> bool:
    """Leave the folder in order after a bad ending; returns whether it still stands."""
    told.say.hush()
    if not processes.is_main():
        return True
    if not told.began:
        # Nothing was trained: an earlier run in this folder stays as it was, and a new folder goes, but for a log
        # that tells what no one foresaw.
        if not job.run.recipe_path.exists() and line in ("the input was refused", "stopped"):
            job.run.discard()
            return False
        return True
    shutil.rmtree(job.run.checkpoints_dir / ASIDE, ignore_errors=True)  # half a checkpoint, perhaps of a full disk
    with contextlib.suppress(Exception):
        job.run.write_state(state, resume=resume_command(job), error=line)
        report.write_report(job.run.path)
    return True


def resume_command(job: Job) -> str:
    """The command that goes on with this run."""
    words = [word for word in job.command[1:] if word not in ("--overwrite", "--resume", "--allow-changes")]
    if not words:
        words = [job.recipe.method, str(job.recipe.path or job.run.recipe_path)]
    return shlex.join(["alignkit", *words, "--resume"])
