"""Exact resume of trainers that reuse their completions: the rollout in hand, its place, and the order of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from alignkit.trainers.order import EpochRepeatSampler


class ExactRollouts(Trainer):
    """Mixed in before TRL's GRPOTrainer, RLOOTrainer, or a subclass of them.

    TRL loses what it has generated and not yet used up when a run stops; here each process keeps it in the checkpoint.
    Subclasses add to `rollout_state` what else they have to remember.
    """

    _step: int
    _buffered_inputs: list[dict[str, Any]] | None
    _metrics: dict[str, Any]

    def rollout_state(self) -> dict[str, Any]:
        """Plain data and tensors: this process's part of what a resumed run goes on with."""
        return {
            "step": self._step,
            "buffered_inputs": self._buffered_inputs,
            "metrics": dict(self._metrics["train"]),
        }

    def restore_rollouts(self, state: dict[str, Any]) -> None:
        """Take back what `rollout_state` gave; its tensors are on this process's device."""
        self._step, self._buffered_inputs = state["step"], state["buffered_inputs"]
        self._metrics["train"].update(state["metrics"])

    def order_options(self) -> dict[str, Any]:
        """What TRL's RepeatSampler is given."""
        args: Any = self.args
        return {
            "mini_repeat_count": args.num_generations,
            "batch_size": args.generation_batch_size // args.num_generations,
            "repeat_count": getattr(args, "num_iterations", 1) * args.steps_per_generation,
            "shuffle": args.shuffle_dataset,
            "seed": args.seed,
        }

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        return EpochRepeatSampler(self.train_dataset if dataset is None else dataset, **self.order_options())

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process comes here, before the checkpoint is complete."""
        super()._save_rng_state(output_dir)
        torch.save(self.rollout_state(), self._state_file(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Before the first prompt is drawn: the order of prompts may depend on what was remembered."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        same_processes = len(list(Path(checkpoint).glob("rollout_state_*.pt"))) == self.args.world_size
        device = self.accelerator.device
        place = "cpu" if device.type == "cpu" else device  # several processes call theirs cpu:0, which torch refuses
        file = self._state_file(checkpoint, self.args.process_index if same_processes else 0)
        state = torch.load(file, weights_only=True, map_location=place)
        # Another number of processes shares other batches: what is known of all prompts and scores goes on, and the
        # completions in hand are made anew.
        self.restore_rollouts(state if same_processes else state | {"buffered_inputs": None})

    def _state_file(self, folder: str, rank: int | None = None) -> Path:
        return Path(folder) / f"rollout_state_{self.args.process_index if rank is None else rank}.pt"
