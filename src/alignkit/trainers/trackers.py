"""A run that goes on is one run at its tracker too: its id there is kept in the manifest."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from alignkit.runs import Run

# Trackers that take an id from us: the variables that say it, and that an id which is there already is gone on with.
OURS = {"wandb": ("WANDB_RUN_ID", "WANDB_RESUME"), "swanlab": ("SWANLAB_RUN_ID", "SWANLAB_RESUME")}


class RemembersMlflow(TrainerCallback):
    """MLflow's server gives the id; it is known once MLflow's own callback has begun a run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        active = sys.modules["mlflow"].active_run() if "mlflow" in sys.modules else None
        if active is not None and state.is_world_process_zero:
            self.run.update_manifest({"trackers": {"mlflow": active.info.run_id}})


@contextlib.contextmanager
def tracked(run: Run, trainer: Any) -> Iterator[None]:
    """Inside, the trainer's trackers go on with the ids in the run's manifest, or begin with new ones, kept there.

    TensorBoard has no ids: it goes on in the run's own folder. Variables that the user has set stand.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(run.tensorboard_dir)
    before = run.manifest.get("trackers", {})
    wanted: dict[str, str] = {}
    ids: dict[str, str] = {}
    for name in trainer.args.report_to:
        if name in OURS and OURS[name][0] not in os.environ:
            ids[name] = before.get(name) or secrets.token_hex(4)
            wanted |= {OURS[name][0]: ids[name], OURS[name][1]: "allow"}
        elif name == "mlflow" and name in before:
            wanted["MLFLOW_RUN_ID"] = before[name]
    if ids and trainer.args.should_save:
        run.update_manifest({"trackers": ids})
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
