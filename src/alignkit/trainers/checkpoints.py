"""Checkpoints that are complete or absent, and hold all that a resumed run goes on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from alignkit import checkpoints
from alignkit.checkpoints import ASIDE, PROGRESS, by_step, read_progress
from alignkit.errors import Interrupted, RunFailed
from alignkit.trainers.progress import Progress


class WholeCheckpoints(Trainer):
    """Mixed in before a subclass of Trainer: `super()` here is that subclass.

    A checkpoint is written aside, sealed with checksums, synced and renamed; only then do older ones go.
    """

    tokens_seen: int = 0
    """Tokens that this process has trained on."""
    _aside: Path | None = None
    order: str = ""
    """A digest of the ids of all examples that this process has trained on, in their order."""

    # ------------------------------------------------------------------ writing
    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside) if self._aside is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._aside = folder / ASIDE
        try:
            if self.args.should_save:
                shutil.rmtree(self._aside, ignore_errors=True)
                self._require_room(folder)
                self._aside.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._settle_checkpoint(self._aside / name, folder / name)
        except (Interrupted, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch, safetensors and json each have their own way to say that a disk is full
            raise self._not_written(error, folder) from error
        finally:
            self._aside = None
        best = self.state.best_global_step
        if best and (folder / f"checkpoint-{best}").exists():
            self.state.best_model_checkpoint = str(folder / f"checkpoint-{best}")
        self.accelerator.wait_for_everyone()

    def _settle_checkpoint(self, aside: Path, final: Path) -> None:
        best = self.state.best_global_step
        if best:  # upstream has just recorded the aside path, or none
            self.state.best_model_checkpoint = str(final.parent / f"checkpoint-{best}")
            self.state.save_to_json(str(aside / "trainer_state.json"))
        checkpoints.seal(aside)
        if final.exists():  # the same step again; there is no moment at which neither stands
            final.replace(aside.parent / "replaced")
        aside.replace(final)
        checkpoints.sync(final.parent)
        shutil.rmtree(aside.parent, ignore_errors=True)
        rotate_checkpoints(
            output_dir=str(final.parent),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _require_room(self, folder: Path) -> None:
        """Raise OSError where the disk cannot hold another checkpoint as large as the last one."""
        before = by_step(folder)
        if not before:
            return
        needed, free = checkpoints.size_of(before[0][1]), shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(f"the disk has {free / 2**20:,.0f} MiB free, and it needs {needed / 2**20:,.0f} MiB")

    def _not_written(self, error: Exception, folder: Path) -> RunFailed:
        shutil.rmtree(folder / ASIDE, ignore_errors=True)
        last = by_step(folder)
        return RunFailed(
            f"the checkpoint of step {self.state.global_step} could not be written ({_in_a_line(error)}); "
            f"last good checkpoint: {last[0][1] if last else 'none yet'}; free some space and go on with --resume"
        )

    # ------------------------------------------------------------------ what a resumed run goes on with
    def note_order(self, ids: list[str]) -> None:
        """Take in the examples of one micro-batch."""
        self.order = hashlib.sha256(f"{self.order}{ids}".encode()).hexdigest()

    def progress(self) -> dict[str, Any]:
        """This process's counts, as they go into a checkpoint."""
        return {
            "world_size": self.args.world_size,
            "global_batch_size": self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size,
            "tokens_seen": self.tokens_seen,
            "logged_tokens": getattr(self, "_total_train_tokens", None),
            "order": self.order,
            "train_time_s": sum(live.training_seconds for live in self._lives()),
        }

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process comes here, before the checkpoint is complete."""
        super()._save_rng_state(output_dir)
        self._progress_file(output_dir).write_text(json.dumps(self.progress()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Every process comes here before the first batch is drawn."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        saved = read_progress(Path(checkpoint))
        if len(saved) == self.args.world_size:
            mine = saved[self.args.process_index]
            self.tokens_seen, self.order = mine["tokens_seen"], mine["order"]
        elif self.args.process_index == 0:
            self.tokens_seen = sum(one["tokens_seen"] for one in saved)
        if saved and saved[0]["logged_tokens"] is not None:  # TRL's own count, which it starts anew
            self._total_train_tokens = saved[0]["logged_tokens"]
        for live in self._lives():
            live.training_seconds = saved[0]["train_time_s"] if saved else 0.0

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied weight stands in a checkpoint under one of its names, and upstream warns that the other is missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _lives(self) -> list[Progress]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, Progress)]

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """A checkpoint's state brings the intervals of its own recipe, which may have changed since."""
        result = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        return result

    def _load_callback_state(self) -> None:
        """Early stopping goes on with its patience used up so far; upstream forgets it, or reorders the callbacks."""
        for callback in self.callback_handler.callbacks:
            saved = self.state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and isinstance(saved, dict):
                for name, value in saved.get("attributes", {}).items():
                    setattr(callback, name, value)

    def _progress_file(self, folder: str) -> Path:
        return Path(folder) / PROGRESS.format(rank=self.args.process_index)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
