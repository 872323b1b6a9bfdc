"""What a task is given, and its examples."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignkit.data import sources
from alignkit.errors import Problem, UserError
from alignkit.evaluation.fingerprints import fingerprint_weights
from alignkit.evaluation.split import EvalSplit
from alignkit.examples import Dropped, Example, Row, local_files, read_source

if TYPE_CHECKING:
    from alignkit.models import Precision
    from alignkit.recipe import EvaluationTask, Source

Say = Callable[[str], None]
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Stage:
    """One model under evaluation. Tasks read it and write only below `out_dir`."""

    model: Any
    tokenizer: Any
    label: str  # tuned, baseline, or a name
    out_dir: Path
    base_dir: Path
    seed: int
    say: Say
    loss_on: str | None = None
    eval_split: EvalSplit | None = None
    precision: Precision | None = None
    place: str | None = None  # the folder or Hub id that holds the same model; None where it is in memory alone
    train_split: EvalSplit | None = None  # for simple models that are fitted beside the one under evaluation

    @cached_property
    def weights(self) -> str:
        """The model's fingerprint."""
        return fingerprint_weights(self.model)

    @property
    def arithmetic(self) -> str:
        """The number format of matrix products: scores of the same model differ a little between formats."""
        precision = self.precision
        autocast = precision is not None and (precision.bf16 or precision.fp16)
        dtype = precision.compute_dtype if precision is not None and autocast else self.model.dtype
        return f"dtype:{str(dtype).removeprefix('torch.')}"

    def about(self, task: EvaluationTask, split: str) -> dict[str, str]:
        """What every score of the task says about itself."""
        return {"name": task.name, "task": task.task, "split": split, "model": self.label}

    def progress(self, task: EvaluationTask, what: str) -> Callable[[int, int], None]:
        """A function (done, all) that says how far the task is: every few seconds, and at the end."""
        spoken = time.monotonic()

        def report(done: int, all_: int) -> None:
            nonlocal spoken
            if done == all_ or time.monotonic() - spoken >= SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                self.say(f"{task.name} ({self.label}): {done:,} of {all_:,} {what}")

        return report

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, and in the run's arithmetic; afterwards as it was."""
        training = self.model.training
        self.model.eval()
        try:
            with self._autocast():
                yield
        finally:
            self.model.train(training)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        precision = self.precision
        if precision is None or not (precision.bf16 or precision.fp16):
            return contextlib.nullcontext()
        return torch.autocast(precision.device.type, dtype=precision.compute_dtype)


def load_examples(task: EvaluationTask, stage: Stage, shapes: Sequence[str]) -> tuple[list[Example], str]:
    """The task's examples (its own sources, else the eval split) and the name of their split.

    What is left out is counted and said.

    Raises:
        UserError: no data, an unknown layout, or nothing left.
    """
    if task.data is None:
        if stage.eval_split is None:
            hint = "name its data, or give the recipe's data an eval split (data.eval, data.eval_fraction)"
            raise UserError(Problem("there is no eval split to evaluate on", field="data", hint=hint))
        return stage.eval_split(shapes)[: task.max_rows], "eval"
    kept: list[Example] = []
    dropped: Counter[str] = Counter()
    for source in task.data:
        rows = None
        if local_files(source, stage.base_dir) is None:
            rows = hub_rows(source)
        for item in read_source(source, stage.base_dir, shapes, rows)[1]:
            if isinstance(item, Dropped):
                dropped[item.reason] += 1
            elif task.max_rows is None or len(kept) < task.max_rows:
                kept.append(item)
            else:
                break
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        stage.say(f"{task.name}: {dropped.total():,} rows left out ({reasons})")
    if not kept:
        raise UserError(Problem("no example is left to evaluate", field="data"))
    return kept, _split_name(task)


def hub_rows(source: Source) -> Iterator[Row]:
    """Rows of a Hub data set."""
    for number, data in enumerate(sources._load(source, streaming=False), 1):
        yield Row(str(source.path), None, number, data)


def _split_name(task: EvaluationTask) -> str:
    names = []
    for source in task.data or []:
        if source.split:
            names.append(source.split)
        elif source.generate:
            names.append(str(source.options.get("split", "train")))
        else:
            names.append(Path(source.path or "").name.split(".")[0] or "data")
    return "+".join(dict.fromkeys(names))


def slices_of(task: EvaluationTask, examples: Sequence[Example]) -> dict[str, list[int]]:
    """Places of examples by the value of `slice_by`; {} without it.

    Raises:
        UserError: no row has that column.
    """
    if task.slice_by is None:
        return {}
    found: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        value = example.row.data.get(task.slice_by)
        found.setdefault("(none)" if value is None else str(value), []).append(place)
    if list(found) == ["(none)"]:
        have = ", ".join(examples[0].row.data)
        raise UserError(Problem(f"no row has a column {task.slice_by}; there are {have}", field="slice_by"))
    return found
