"""The whole training story on one page: seed, tokenizer, data, model, trainer, train, save, evaluate, report."""

from __future__ import annotations

import contextlib
import logging
import shlex
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from transformers import EarlyStoppingCallback, set_seed
from transformers.utils import logging as transformers_logging

from alignkit import report
from alignkit.console import Voice, Warnings, logged_to, redirect_libraries
from alignkit.errors import Interrupted, RunFailed, UserError
from alignkit.evaluation import evaluate_run
from alignkit.launch import Job
from alignkit.methods.base import Stage
from alignkit.models import build_model, build_tokenizer, choose_precision, count_parameters, restore_adapter_dtype, save_result
from alignkit.record import say_plan, write_beginnings, write_endings
from alignkit.runs import require_free_space
from alignkit.trainers import MetricsFile, Progress, StopRequests, build_arguments
from alignkit.trainers.guards import newest_checkpoint
from alignkit.trainers.resume import check_same_recipe


def train(job: Job) -> None:
    """Run one training job from its recipe to its report, in this process."""
    begun = time.time()
    with job.run.hold(overwrite=job.overwrite, resume=job.resume), logged_to(job.run.log_path) as warned:
        voice, stop = Voice(), StopRequests()
        with _ending(job, voice), stop.listening():
            story(job, voice, stop, warned, begun)


def story(job: Job, say: Voice, stop: StopRequests, warned: Warnings, begun: float) -> None:
    recipe, method, run = job.recipe, job.method, job.run
    checkpoint = _checkpoint(job)

    say("loading the libraries")
    config_class = method.config_class()
    redirect_libraries()
    transformers_logging.disable_progress_bar()

    set_seed(recipe.seed)
    precision = choose_precision(recipe)
    has_eval = bool(recipe.data and (recipe.data.eval or recipe.data.eval_fraction))
    arguments = build_arguments(recipe, config_class, run.checkpoints_dir, precision, has_eval=has_eval)
    arguments.eval_on_start = has_eval and checkpoint is None  # a resumed run logged it when it began
    stage = Stage(recipe, run, say, precision, arguments, start=job.start)

    say("reading the tokenizer")
    stage.tokenizer = build_tokenizer(recipe, start=job.start)
    stage.data = method.prepare(stage)
    say("building the model")
    stage.model = build_model(recipe, stage.tokenizer, precision, head=method.head, start=job.start)

    live, metrics = Progress(say.console), MetricsFile(run.metrics_path)
    stage.callbacks = [live, metrics, stop, *_early_stopping(recipe)]
    trainer: Any = method.build_trainer(stage)
    live.attach(trainer)
    if recipe.quantization is not None:
        restore_adapter_dtype(stage.model, precision.trainable_dtype)
    _require_disk(job, trainer)
    write_beginnings(job, stage, job_resume(job))

    say_plan(stage, trainer, say)
    say.release()
    started = time.time()
    with contextlib.closing(metrics), _memory_told(stage):
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
            stop.training = False
            if stop.requested is not None:
                raise Interrupted(f"stopped by {stop.requested.name} after step {trainer.state.global_step}", job_resume(job))
            if has_eval and not _evaluated_last(trainer):
                trainer.evaluate()
        finally:
            live.stop()
    save_result(trainer.model, stage.tokenizer, run.model_dir)
    write_endings(job, trainer, live, begun, started, warned.messages)

    if recipe.evaluation:
        evaluate_run(recipe, run.path, trainer.model, stage.tokenizer, start=job.start, precision=precision, prepared=stage.data, say=say)


# ---------------------------------------------------------------------- before training
def _checkpoint(job: Job) -> str | None:
    """The checkpoint to go on from; metrics logged after it are forgotten. None for a start from scratch."""
    if not job.resume:
        return None
    check_same_recipe(job.recipe, job.run)
    found = newest_checkpoint(job.run.checkpoints_dir)
    job.run.drop_metrics_after(int(found.name.rsplit("-", 1)[1]) if found else -1)
    return str(found) if found else None


def _early_stopping(recipe: Any) -> list[EarlyStoppingCallback]:
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
def _evaluated_last(trainer: Any) -> bool:
    return any("eval_loss" in line and line.get("step") == trainer.state.global_step for line in trainer.state.log_history)


@contextlib.contextmanager
def _memory_told(stage: Stage) -> Iterator[None]:
    """Memory that ran out: say what took it and what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "not enough memory" not in text:
            raise
        arguments: Any = stage.arguments
        total, trainable = count_parameters(stage.model)
        raise RunFailed(
            f"out of memory on {stage.precision.device}: {total / 1e6:,.0f}M parameters ({trainable / 1e6:,.0f}M trained), "
            f"micro-batch {arguments.per_device_train_batch_size} × {getattr(arguments, 'max_length', None) or '?'} tokens; "
            "try a smaller training.per_device_train_batch_size (the global batch stays), training.gradient_checkpointing: "
            "true, a shorter training.max_length, an adapter, or quantization"
        ) from error


@contextlib.contextmanager
def _ending(job: Job, voice: Voice) -> Iterator[None]:
    """Whatever happens inside becomes a state, a line in log.txt, a report, and one of the three exceptions of a command."""
    run = job.run
    try:
        yield
    except UserError:
        voice.hush()
        if not run.recipe_path.exists():
            run.discard()  # nothing was trained: the mended recipe starts in an empty folder
        elif run.state_path.exists():
            run.write_state("failed", error="stopped by an error in its input")
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        voice.hush()
        if not run.recipe_path.exists():
            run.discard()
            raise Interrupted(str(error) or "stopped before training began") from error
        stopped = error if isinstance(error, Interrupted) and error.resume else Interrupted(str(error) or "stopped", job_resume(job))
        run.write_state("interrupted", resume=stopped.resume, error=str(stopped))
        report.write_report(run.path)
        raise stopped from error
    except Exception as error:
        voice.hush()
        logging.getLogger("alignkit").error("%s", traceback.format_exc())
        line = str(error) if isinstance(error, RunFailed) else f"{type(error).__name__}: {error or 'no message'}"
        line = " ".join(line.split())
        run.write_state("failed", resume=job_resume(job), error=line)
        with contextlib.suppress(Exception):
            report.write_report(run.path)
        raise RunFailed(f"{line} (details in {run.log_path})") from error
    run.write_state("finished")
    report.write_report(run.path)
    voice.hush()


def job_resume(job: Job) -> str:
    """The command that goes on with this run."""
    words = [word for word in job.command[1:] if word not in ("--overwrite", "--resume")]
    if not words:
        words = [job.recipe.method, str(job.recipe.path or job.run.recipe_path)]
    return shlex.join(["alignkit", *words, "--resume"])
