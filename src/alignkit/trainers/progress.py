"""What a run shows and records while it trains: the live line (plain lines without a terminal), metrics.jsonl."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from transformers import IntervalStrategy, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignkit.trainers.ranks import summed

SUMMARY_KEYS = ("train_runtime", "total_flos")  # upstream's closing log; its figures go to the manifest instead


class MetricsFile(TrainerCallback):
    """Appends one JSON object a logging step to metrics.jsonl: upstream's keys, with `step` and `epoch`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens, self._time = 0, time.monotonic()
        self._file: IO[str] | None = None

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._time = time.monotonic()

    def record(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Write one line now. NaN and infinity are no JSON: they are written as null."""
        if self._file is None:
            return
        line = {"step": state.global_step, **{key: _finite(value) for key, value in logs.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        if logs and not any(key in logs for key in SUMMARY_KEYS):
            self.record(state, logs)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress(TrainerCallback):
    """One live line on a terminal; elsewhere a plain line a logging step. Both go to stderr."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.trainer: Any = None  # set by `attach`
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._rate: float | None = None
        self._mark = (0, 0.0)
        self._first_step_at: float | None = None
        self._begun = self._since = 0.0
        self._started_step = 0
        self.training_seconds = 0.0  # spent in steps: neither evaluating nor saving

    def attach(self, trainer: Any) -> None:
        self.trainer = trainer

    @property
    def first_step_at(self) -> float | None:
        """`time.time()` at the end of the first optimizer step, or None before it."""
        return self._first_step_at

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        self._begun, self._started_step = time.monotonic(), state.global_step
        self._mark = (self.trainer.tokens_seen, time.monotonic())
        self._since = time.monotonic()
        if state.is_world_process_zero and self.console.is_terminal:
            columns = (
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
            )
            self._bar = RichProgress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, figures="")
            self._bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps and args.logging_strategy == IntervalStrategy.STEPS:
            control.should_log = True  # else the steps after the last multiple of logging_steps are never seen
        now = time.monotonic()
        self.training_seconds += now - self._since
        self._since = now
        if self._first_step_at is None:
            self._first_step_at = time.time()
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_kwargs: Any,
    ) -> None:
        """Runs before MetricsFile writes the line, so that the rate computed here stands in it too."""
        if not logs or any(key in logs for key in SUMMARY_KEYS):
            return
        if "loss" in logs and self.trainer is not None:
            tokens, now = self.trainer.tokens_seen, time.monotonic()
            if now > self._mark[1]:
                self._rate = summed(tokens - self._mark[0], args.device) / (now - self._mark[1])
                logs["tokens_per_second"] = round(self._rate, 1)
            self._mark = (tokens, now)
        if state.is_world_process_zero:
            self._show(state, logs)

    def on_evaluate(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        self._pause()

    def on_save(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        self._pause()

    def _pause(self) -> None:
        """Evaluating and saving are not training: what they took stays out of the rate."""
        self._since = time.monotonic()
        self._mark = (self.trainer.tokens_seen, self._since)

    def on_train_end(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away; safe to call twice, and after an exception."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, state: TrainerState, logs: dict[str, Any]) -> None:
        figures = "  ".join(f"{name} {text}" for name, text in _figures(logs))
        if self._bar is not None and "loss" in logs:
            self._bar.update(self._task, figures=figures)
            return
        done = state.global_step - self._started_step
        left = (time.monotonic() - self._begun) / done * (state.max_steps - state.global_step) if done else None
        ending = f"  left {_duration(left)}" if left is not None and "loss" in logs else ""
        text = f"step {state.global_step}/{state.max_steps}  {figures}{ending}"
        # Not console.print: wrapping to a made-up width would tear a plain line in two.
        (self._bar.console if self._bar is not None else self.console).print(text, highlight=False, soft_wrap=True)


SHOWN = (
    "loss",
    "eval_loss",
    "eval_exact_match",
    "reward",
    "eval_reward",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "accuracy",
    "margin",
    "eval_kl",
    "reward_std",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "kl",
    "clip_ratio/region_mean",
    "learning_rate",
    "tokens_per_second",
)
SHORT = {
    "rewards/margins": "margin",
    "logps/chosen": "log p chosen",
    "logps/rejected": "rejected",
    "accuracy": "acc",
    "learning_rate": "lr",
    "tokens_per_second": "tok/s",
    "rewards/accuracies": "acc",
    "reward_std": "spread",
    "frac_reward_zero_std": "flat",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "clip_ratio/region_mean": "clipped",
}


def _figures(logs: dict[str, Any]) -> list[tuple[str, str]]:
    shown = [(key, logs[key]) for key in SHOWN if isinstance(logs.get(key), int | float)]
    if not shown:
        shown = [(key, value) for key, value in logs.items() if key.startswith("eval_") and isinstance(value, float)][
            :3
        ]
    return [(SHORT.get(key, key), _number(key, value)) for key, value in shown]


def _number(key: str, value: float) -> str:
    if key == "tokens_per_second":
        return f"{value:,.0f}"
    return f"{value:.2e}" if key == "learning_rate" else f"{value:.4f}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
