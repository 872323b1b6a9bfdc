"""SIGINT, SIGTERM and SIGUSR1: finish the step, write a checkpoint, stop. A second SIGINT stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit.errors import Interrupted
from alignkit.processes import STOP_SIGNALS
from alignkit.trainers.ranks import any_rank


class StopRequests(TrainerCallback):
    """Listens for stop signals. While a trainer runs, the step in hand is finished and a checkpoint written first."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.training = False

    @contextmanager
    def listening(self) -> Iterator[StopRequests]:
        """Handle the signals inside this block; the handlers from before come back after it."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # Python delivers signals to the main thread only; a caller in a thread handles them itself
            return
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self.training:
            raise Interrupted(f"stopped by {signal.Signals(number).name}")
        if self.requested is not None and number == signal.SIGINT:
            raise Interrupted("stopped at once by a second SIGINT; the last checkpoint stands")
        self.requested = signal.Signals(number)

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> TrainerControl:
        self.training = True
        return control

    def on_step_end(
        self, args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> TrainerControl:
        if any_rank(self.requested is not None, args.device):
            self.requested = self.requested or signal.SIGTERM  # another rank was asked
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_train_end(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> TrainerControl:
        self.training = False
        return control
