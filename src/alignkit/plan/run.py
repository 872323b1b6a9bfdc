"""From a recipe to its plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from alignkit import methods
from alignkit.console import redirect_libraries
from alignkit.data.sources import quiet_datasets
from alignkit.errors import Interrupted, UserError
from alignkit.gpus import CPU, Gpu
from alignkit.methods.base import Stage
from alignkit.models.precision import Precision, choose_device, computes_bfloat16, decide_precision
from alignkit.models.start import Start, resolved_by
from alignkit.models.tokenizer import build_tokenizer
from alignkit.models.upstream import Complain
from alignkit.plan.extend import NotLinear, extend
from alignkit.plan.fit import UTILISATION, gpus_shown, smallest_gpu, step_seconds, verdict
from alignkit.plan.follow import CannotSimulate
from alignkit.plan.model import cut, depth_of, depths, planned_start, start_at
from alignkit.plan.options import Reload, largest_batch, options
from alignkit.plan.rows import longest_rows, own_rows, row_length, stand_in
from alignkit.plan.sharding import kind_of, shard
from alignkit.plan.simulate import PARTS, Case, Timeline, simulate
from alignkit.recipe import Recipe
from alignkit.runs import Run

if TYPE_CHECKING:
    from alignkit.data import Prepared

SMALL = 30_000_000
"""Parameters up to which a plan on a machine without a GPU is for that machine."""
MOMENTS = {
    "prefill": "while the rollout reads its prompts",
    "decode": "at the end of the rollout's generation",
    "scoring": "while the rollout is scored",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "clipping": "while gradients are clipped",
    "optimizer": "in the optimizer's step",
}


@dataclass
class Plan:
    """What one recipe needs on one device. Memory in bytes."""

    recipe: str
    method: str
    device: str
    peak_memory_bytes: int
    parts: dict[str, int]
    moment: str
    phases: dict[str, int]
    """Each phase's own peak."""
    flops_per_step: int
    """Of one optimizer step over all devices."""
    tokens_per_step: int
    steps: int | None
    parameters: int
    trainable_parameters: int
    micro_batch: tuple[int, int]
    accumulation: int
    simulated_layers: list[int]
    """The depths that were simulated; one that is the model's own means all of it."""
    layers: int
    notes: list[str] = field(default_factory=list)


class Planner:
    """What stays the same over several simulations of one recipe: tokenizer, rows, folder, device."""

    def __init__(
        self,
        recipe: Recipe,
        gpu: Gpu | str | None,
        folder: Path,
        say: Callable[[str], None],
        num_gpus: int = 1,
        accelerate: str | None = None,
    ) -> None:
        self.recipe, self.folder, self.say = recipe, folder, say
        self.num_gpus, self.sharding = num_gpus, kind_of(accelerate)
        self.simulated: Timeline | None = None
        self.data: Prepared | None = None
        """Rows that are prepared already, as a run has them."""
        self.method = methods.get(recipe.method)
        self.notes: list[str] = []
        self.start: Any = self._start(recipe)
        self.stood_in = False
        self.tokenizer = self._tokenizer()
        self.device = self._device(gpu)

    # ------------------------------------------------------------------ what is planned
    def _start(self, recipe: Recipe) -> Start:
        from alignkit.models.build import random_config

        start = planned_start(recipe, self.folder)
        if start is None:  # init: random
            tokenizer = build_tokenizer(recipe)
            start = Start("random", config=random_config(recipe, tokenizer))
        return start

    def _tokenizer(self) -> Any:
        assert self.start.config is not None
        try:
            return build_tokenizer(self.recipe, start=None if self.start.base == "random" else self.start)
        except UserError:
            self.stood_in = True
            self.notes.append("the tokenizer is not at hand: one of a token a word stands in for it")
            return stand_in(self.start.config)

    def _device(self, gpu: Gpu | str | None) -> Gpu | None:
        """The GPU that is planned for; None for this machine's processor."""
        if isinstance(gpu, Gpu):
            return gpu
        if gpu == CPU:
            return None
        here = choose_device()
        if here.type == "cuda":
            properties = torch.cuda.get_device_properties(here)
            return Gpu(properties.name, properties.total_memory, 0.0, torch.cuda.is_bf16_supported())
        return None if _size(self.start) < SMALL else Gpu("a GPU", 0, 0.0)

    def precision(self, recipe: Recipe) -> Precision:
        """As on the device. Simulated tensors are all on the CPU, and float16 is counted as bfloat16 is."""
        if self.device is None:
            here = torch.device("cpu")
            return decide_precision(recipe, here, computes_bfloat16(here), self.start)
        found = decide_precision(recipe, torch.device("cuda"), self.device.bf16, self.start)
        half = found.frozen_dtype == torch.float16
        kinds = {"frozen_dtype": torch.bfloat16, "compute_dtype": torch.bfloat16, "bf16": True} if half else {}
        return replace(found, device=torch.device("cpu"), use_cpu=True, fp16=False, **kinds)

    def rows(self, recipe: Recipe, precision: Precision) -> tuple[Prepared, bool]:
        """The rows, and whether they are the recipe's own."""
        if self.data is not None:
            return self.data, True
        stage: Any = Stage(recipe, Run("unwritten"), lambda _: None, precision, arguments=None,
                           start=self.start, tokenizer=self.tokenizer)  # fmt: skip
        own = None
        if not self.stood_in:
            try:
                own = own_rows(recipe, self.method, stage)
            except UserError as error:
                note = f"the data cannot be read here ({error.problems[0].message})"
                self.notes += [] if note in self.notes else [note]
        if own is not None:
            return own, True
        assert self.start.config is not None
        length = row_length(recipe, self.start.config)
        return longest_rows(recipe, self.method, stage, length, self.folder), False

    # ------------------------------------------------------------------ simulation
    def plan(self, recipe: Recipe | None = None, *, full: bool = False) -> Plan:
        """The plan of the recipe, or of one that differs from it in how it is trained."""
        recipe = self.recipe if recipe is None else recipe
        precision = self.precision(recipe)
        data, own = self.rows(recipe, precision)
        case = Case(
            recipe, self.method, precision, self.device is not None, self.start, self.tokenizer, data, self.num_gpus
        )
        timeline, simulated, notes = self._timeline(case, full)
        self.simulated = timeline if recipe is self.recipe else self.simulated
        if self.num_gpus > 1:
            timeline = shard(timeline, self.sharding, self.num_gpus, depth_of(self.start.config))
            notes.append(f"{self.num_gpus} GPUs with {self.sharding}: modelled from one GPU's step, not simulated")
        return self._plan(recipe, case, timeline, simulated, [*self.notes, *notes], own)

    def sharded(self, found: Plan, kind: str, gpus: int) -> int:
        """Peak bytes of one of several GPUs, of the recipe that `plan` was last asked for."""
        assert self.simulated is not None
        phases = shard(self.simulated, kind, gpus, found.layers).phases
        return max(int(phase.totals.max()) for phase in phases)

    def _timeline(self, case: Case, full: bool) -> tuple[Timeline, list[int], list[str]]:
        assert self.start.config is not None
        config = self.start.config
        notes: list[str] = []
        depth, chosen = depth_of(config), None if full else depths(config)
        if chosen is not None:
            try:
                shallow = [self._simulate(case, cut(config, layers)) for layers in chosen]
                return extend((shallow[0], shallow[1], shallow[2]), chosen, depth), list(chosen), notes
            except NotLinear as error:
                notes.append(f"simulated in full, because {chosen} layers do not give the rest: {error}")
        return self._simulate(case, config), [depth], notes

    def _simulate(self, case: Case, config: Any) -> Timeline:
        self.say(f"simulating {depth_of(config)} layers")
        try:
            with resolved_by(self._resolver(depth_of(config))):
                return simulate(replace(case, start=replace(self.start, config=config)))
        except (UserError, Interrupted):
            raise
        except Exception as error:  # a model's own code may raise anything where its tensors hold no values
            line = " ".join(str(error).split())[:200]
            line = line if isinstance(error, CannotSimulate) else f"{type(error).__name__}: {line}"
            message = f"{config.model_type} cannot be simulated: {line}"
            raise UserError(self.recipe.problem("model", message, "no plan is better than a wrong one")) from error

    def _resolver(self, layers: int) -> Callable[[str, str | None, Complain], Start]:
        """Other models of the recipe (a reference, a reward model): as deep as the policy is simulated, if they are."""
        whole = depth_of(self.start.config)

        def resolve(name: str, revision: str | None, complain: Complain) -> Start:
            found = start_at(self.recipe, name, revision, complain)
            assert found.config is not None
            alike = depth_of(found.config) == whole and layers < whole
            return replace(found, config=cut(found.config, layers)) if alike else found

        return resolve

    def _plan(
        self, recipe: Recipe, case: Case, timeline: Timeline, simulated: list[int], notes: list[str], own: bool
    ) -> Plan:
        peaks: dict[str, int] = {}
        for one in timeline.phases:
            peaks[one.name] = max(peaks.get(one.name, 0), int(one.totals.max()))
        phase = max(timeline.phases, key=lambda phase: int(phase.totals.max()))
        at = phase.parts[int(phase.totals.argmax())]
        rows = timeline.accumulation * case.world_size
        if not own:
            notes = [*notes, f"rows of {timeline.shape[1]} tokens are assumed, the longest that the recipe allows"]
        return Plan(
            recipe=str(recipe.path or recipe.output_dir),
            method=recipe.method,
            device="this machine's CPU" if self.device is None else self.device.name,
            peak_memory_bytes=peaks[phase.name],
            parts={part: int(value) for part, value in zip(PARTS, at, strict=True) if value},
            moment=MOMENTS[phase.name],
            phases=peaks,
            flops_per_step=timeline.flops * case.world_size,
            tokens_per_step=timeline.tokens * rows,
            steps=_steps(recipe, case, timeline, own),
            parameters=timeline.parameters,
            trainable_parameters=timeline.trainable,
            micro_batch=timeline.shape,
            accumulation=timeline.accumulation,
            simulated_layers=simulated,
            layers=depth_of(self.start.config),
            notes=notes,
        )


def _size(start: Start) -> int:
    """Parameters, about: enough to tell a model for a laptop from one for a GPU."""
    assert start.config is not None
    text: Any = start.config.get_text_config()
    width = int(getattr(text, "hidden_size", 0) or 0)
    middle = int(getattr(text, "intermediate_size", 0) or 4 * width)
    return depth_of(start.config) * width * (4 * width + 3 * middle) + int(getattr(text, "vocab_size", 0)) * width


def _steps(recipe: Recipe, case: Case, timeline: Timeline, own: bool) -> int | None:
    training = recipe.training.resolved()
    if (training.get("max_steps") or -1) > 0:
        return int(training["max_steps"])
    if not own:
        return None
    together = int(training["per_device_train_batch_size"]) * timeline.accumulation * case.world_size
    return int(-(-len(case.data.train) // together) * float(training["num_train_epochs"]) + 0.999)


@contextmanager
def planner(
    recipe: Recipe,
    gpu: Gpu | str | None = None,
    say: Callable[[str], None] = lambda _: None,
    num_gpus: int = 1,
    accelerate: str | None = None,
) -> Iterator[Planner]:
    """A planner for `recipe` on `gpu`: one of the table, "cpu", or None for what suits the machine and the model."""
    redirect_libraries()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, quiet_datasets():
        yield Planner(recipe, gpu, Path(folder), say, num_gpus, accelerate)


def plan(
    recipe: Recipe,
    gpu: Gpu | str | None,
    say: Callable[[str], None],
    reload: Reload,
    *,
    num_gpus: int = 1,
    accelerate: str | None = None,
    max_batch: bool = False,
    what_helps: bool = False,
) -> dict[str, Any]:
    """The plan of `recipe` as plain data: with the GPUs it fits, and where it does not, what would help.

    What would help is simulated for a chosen GPU that it does not fit, and where `what_helps` asks for it.
    """
    with planner(recipe, gpu, say, num_gpus, accelerate) as made:
        found = made.plan()
        result: dict[str, Any] = {**asdict(found), "utilisation": UTILISATION, "gpus": [], "options": []}
        if made.device is None:
            return result
        result["smallest_gpu"] = smallest_gpu(found.peak_memory_bytes)
        chosen = gpu if isinstance(gpu, Gpu) else None
        shown = gpus_shown(chosen)
        result["gpus"] = [_on(found, one, num_gpus) for one in shown]
        if what_helps or (chosen is not None and verdict(found.peak_memory_bytes, chosen) == "does not fit"):
            result["options"] = options(made, found, chosen, reload)
        if max_batch and chosen is not None:
            result["max_batch"] = largest_batch(made, chosen, reload)
        return result


def _on(found: Plan, gpu: Gpu, num_gpus: int) -> dict[str, Any]:
    """Whether the plan fits a GPU, and its times there in seconds."""
    seconds = step_seconds(found.flops_per_step, gpu, num_gpus)
    total = None if seconds is None or found.steps is None else seconds * found.steps
    word = verdict(found.peak_memory_bytes, gpu)
    return {"name": gpu.name, "verdict": word, "step_seconds": seconds, "total_seconds": total}
