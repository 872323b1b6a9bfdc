"""One optimizer step of a recipe, on fake tensors: the recipe's own model, trainer, loss, clipping and optimizer."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import RandomSampler

from alignkit.methods.base import Method, Stage
from alignkit.models import Precision
from alignkit.models.shapes import numbers_in
from alignkit.plan import rollout
from alignkit.plan.apart import no_collection, nowhere, one_process, own_accelerate_state, unheard
from alignkit.plan.follow import Follow
from alignkit.plan.seams import changed
from alignkit.runs import Run
from alignkit.trainers import build_arguments
from alignkit.trainers.attention import attending_by_products

if TYPE_CHECKING:
    from alignkit.data import Prepared
    from alignkit.recipe import Recipe

PARTS = (
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "temporaries",
    "rollout cache",
    "batch",
)
TEMPORARIES = PARTS.index("temporaries")


@dataclass(frozen=True)
class Case:
    """What is simulated: a recipe on a device, with everything about it that is no tensor of the model."""

    recipe: Recipe
    method: Method
    precision: Precision
    cuda: bool
    start: Any
    """A `Start` with the config of the depth that is simulated."""
    tokenizer: Any
    data: Prepared
    world_size: int = 1


@dataclass
class Phase:
    """A stretch of operations: each one's name, and the bytes that live once it has run, by part (N, parts)."""

    name: str
    names: np.ndarray
    parts: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        totals: np.ndarray = self.parts.sum(axis=1)
        return totals


@dataclass
class Timeline:
    """One simulated optimizer step."""

    phases: list[Phase]
    flops: int
    """Of one optimizer step on one device."""
    tokens: int
    """Real tokens of the simulated micro-batch."""
    parameters: int
    trainable: int
    accumulation: int
    shape: tuple[int, int]
    """Rows and columns of the micro-batch."""
    layer_bytes: int = 0
    """Of the weights of one layer; 0 where it is not known."""


@dataclass
class _Marks:
    """Where phases begin, as numbers of operations."""

    follow: Follow
    starts: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, name: str) -> None:
        self.starts.append((name, self.follow.now))

    def again(self, *_: Any) -> None:
        """The same phase goes on in a new stretch."""
        self(self.starts[-1][0])

    def first(self, name: str) -> int:
        return next(at for known, at in self.starts if known == name)


class _Mode(FakeTensorMode):
    def __deepcopy__(self, _memo: Any) -> _Mode:
        return self  # a copied model (a reference) is of the same simulation


def simulate(case: Case) -> Timeline:
    """The timeline of one step in its steady state: the optimizer has its state, and gradients accumulate.

    Raises:
        CannotSimulate: the code asks for values that fake tensors lack.
        UserError: what building the model or the trainer refuses.
    """
    fake = _Mode()
    follow = Follow(fake)
    marks = _Marks(follow)
    apart = (own_accelerate_state(), one_process(), no_collection(), unheard())
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(nowhere())
        for each in (*apart, fake, follow, changed(follow, cuda=case.cuda)):
            stack.enter_context(each)
        marks("building")
        stage = _stage(case, folder)
        stage.model = case.method.build_model(stage)
        with rollout.nothing_loaded(stage.model):
            trainer: Any = case.method.build_trainer(stage)
        follow.widths = frozenset({_vocabulary(stage.model), 32768} - {0})
        _prepare(trainer)
        batch, tokens, shape = _batch(trainer, follow)
        _step(trainer, batch, follow, marks)
        _name_parts(trainer, follow, marks)
        total, trainable = _count(trainer.model)
    accumulation = trainer.args.gradient_accumulation_steps
    return Timeline(
        phases=_phases(follow, marks),
        flops=_flops(trainer, follow, marks),
        tokens=tokens,
        parameters=total,
        trainable=trainable,
        accumulation=accumulation,
        shape=shape,
    )


# ---------------------------------------------------------------------- building
def _stage(case: Case, folder: Path) -> Stage:
    arguments: Any = build_arguments(
        case.recipe, case.method.config_class(), folder, case.precision, has_eval=False,
        world_size=case.world_size, report_to="none", push_to_hub=False, use_cpu=True, save_strategy="no",
        load_best_model_at_end=False, dataloader_num_workers=0,
    )  # fmt: skip
    stage = Stage(case.recipe, Run(folder), lambda _: None, case.precision, arguments, start=case.start)
    stage.tokenizer, stage.data = case.tokenizer, case.data
    return stage


def _prepare(trainer: Any) -> None:
    """What `train()` does before its first step."""
    arguments = trainer.args
    if arguments.activation_checkpointing:
        options = dict(arguments.activation_checkpointing_kwargs or {})
        every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
        trainer.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=options or None, every_n_layers=every, offload=offload
        )
    trainer.create_optimizer()
    trainer.model.train()
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model, device_placement=False)
    trainer.optimizer = trainer.accelerator.prepare_optimizer(trainer.optimizer, device_placement=False)
    trainer.current_gradient_accumulation_steps = arguments.gradient_accumulation_steps


def _batch(trainer: Any, follow: Follow) -> tuple[Any, int, tuple[int, int]]:
    """The heaviest micro-batch of the data's order (online: rollout), its real tokens, and a micro-batch's shape."""
    arguments, data = trainer.args, trainer.train_dataset
    size = arguments.per_device_train_batch_size
    together = size * arguments.steps_per_generation if is_online(trainer) else size
    with _disable_current_modes():
        order = _order(trainer, together)
        lengths = np.asarray(data["length"]) if "length" in data.column_names else np.ones(len(data), dtype=int)
        chunks = [order[first : first + together] for first in range(0, max(len(order) - together, 0) + 1, together)]
        heaviest = max(chunks, key=lambda chunk: (lengths[chunk].max() * len(chunk), lengths[chunk].sum()))
        batch = trainer.data_collator([data[int(index)] for index in heaviest])
    tokens = int(lengths[heaviest].sum())
    if is_online(trainer):
        new = arguments.max_completion_length
        share = size / len(heaviest)
        return batch, round((tokens + new * len(heaviest)) * share), (size, int(lengths[heaviest].max()) + new)
    put = {key: follow.put(value) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    for value in put.values():
        if isinstance(value, torch.Tensor):
            follow.name(value, "batch")
    shape = next((tuple(value.shape) for key, value in put.items() if key.endswith("input_ids")), (size, 0))
    return put, tokens, (int(shape[0]), int(shape[1]))


def _order(trainer: Any, together: int) -> list[int]:
    """Indices in the order of training: all of an epoch, or of a known order only what the run gets to see."""
    arguments, sampler = trainer.args, trainer._get_train_sampler()
    order = list(sampler if sampler is not None else range(len(trainer.train_dataset)))
    if arguments.max_steps <= 0 or isinstance(sampler, RandomSampler):
        return order
    return order[: together * arguments.gradient_accumulation_steps * arguments.max_steps]


def is_online(trainer: Any) -> bool:
    """Whether the trainer learns from its own completions."""
    return hasattr(trainer, "_generate_and_score_completions")


# ---------------------------------------------------------------------- the step
def _step(trainer: Any, batch: Any, follow: Follow, marks: _Marks) -> None:
    _make_state(trainer)

    def as_later_micro_batches() -> None:
        if trainer.args.gradient_accumulation_steps > 1:
            _make_gradients(trainer)

    model = trainer.model_wrapped
    with contextlib.ExitStack() as stack:
        stack.enter_context(attending_by_products(trainer.model))
        stack.enter_context(_backward_marked(trainer, marks))
        stack.enter_context(_passes_marked(trainer, marks))
        if is_online(trainer):
            stack.enter_context(rollout.simulated(trainer, follow, marks, as_later_micro_batches))
            items = None
        else:
            as_later_micro_batches()
            items = trainer._get_num_items_in_batch([batch], trainer.args.device)
            marks("forward")
        trainer.training_step(model, batch, items)
    marks("clipping")
    norm = trainer._clip_grad_norm(model) if trainer.args.max_grad_norm > 0 else None
    _name_gradients(trainer, follow)
    trainer._get_grad_norm(model, grad_norm=norm)
    marks("optimizer")
    trainer.optimizer.step()


def _make_gradients(trainer: Any) -> None:
    for parameter in _trained(trainer):
        parameter.grad = torch.zeros_like(parameter)


def _make_state(trainer: Any) -> None:
    """The optimizer's state, as its first step makes it."""
    _make_gradients(trainer)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def _trained(trainer: Any) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in trainer.model.parameters() if parameter.requires_grad)


@contextlib.contextmanager
def _backward_marked(trainer: Any, marks: _Marks) -> Iterator[None]:
    backward: Callable[..., None] = trainer.accelerator.backward

    def marked(loss: torch.Tensor, **kwargs: Any) -> None:
        marks("backward")
        backward(loss, **kwargs)

    with patch.object(trainer.accelerator, "backward", marked):
        yield


@contextlib.contextmanager
def _passes_marked(trainer: Any, marks: _Marks) -> Iterator[None]:
    """Each pass through a model is a stretch of its own: the layers of one do not mix with those of another."""
    from transformers import PreTrainedModel

    roots = [trainer.model, getattr(trainer, "ref_model", None), *rollout.reward_models(trainer)]
    found = [module for root in roots if root is not None for module in root.modules()]
    models = {id(module): module for module in found if isinstance(module, PreTrainedModel)}
    hooks = [model.register_forward_pre_hook(marks.again) for model in models.values()]
    hooks += [model.register_forward_hook(marks.again) for model in models.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------------- what stands where
def _name_gradients(trainer: Any, follow: Follow) -> None:
    for parameter in _trained(trainer):
        if parameter.grad is not None:
            follow.name(parameter.grad, "gradients")


def _name_parts(trainer: Any, follow: Follow, marks: _Marks) -> None:
    adapted = hasattr(trainer.model, "peft_config")
    models = [trainer.model, getattr(trainer, "ref_model", None), *rollout.reward_models(trainer)]
    kept = [model for model in models if model is not None]
    for parameter in itertools.chain.from_iterable((*model.parameters(), *model.buffers()) for model in kept):
        follow.name(parameter, "adapter" if adapted and parameter.requires_grad else "weights")
        for state in _quantisation_state(parameter):
            follow.name(state, "weights")
    for state in trainer.optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                follow.name(value, "optimizer")
    forward, backward = marks.first("forward"), marks.first("backward")
    for block in follow.blocks:
        if block.part is None and block.wide:
            block.part = "logits"
        elif block.part is None and forward <= block.start < backward and (block.end is None or block.end > backward):
            block.part = "activations"


def _quantisation_state(parameter: Any) -> Iterator[torch.Tensor]:
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        for value in (state.absmax, state.code, state.offset):
            if isinstance(value, torch.Tensor):
                yield value
        state = state.state2
    if isinstance(getattr(parameter, "SCB", None), torch.Tensor):
        yield parameter.SCB


def _vocabulary(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "vocab_size", 0) or 0)


def _count(model: Any) -> tuple[int, int]:
    numbers = [(numbers_in(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(number for number, _ in numbers), sum(number for number, trained in numbers if trained)


def _phases(follow: Follow, marks: _Marks) -> list[Phase]:
    deltas: np.ndarray = np.zeros((follow.now + 1, len(PARTS)), dtype=np.int64)
    for block in follow.blocks:
        part = TEMPORARIES if block.part is None else PARTS.index(block.part)
        deltas[block.start, part] += block.size
        if block.end is not None:
            deltas[block.end, part] -= block.size
    parts, names = deltas.cumsum(axis=0), np.asarray(follow.names)
    bounds = [*marks.starts, ("end", follow.now)]
    return [
        Phase(name, names[first:last], parts[first:last])
        for (name, first), (_, last) in itertools.pairwise(bounds)
        if last > first and name != "building"  # on the device nothing is there yet but what grows
    ]


def _flops(trainer: Any, follow: Follow, marks: _Marks) -> int:
    """FLOPs of one optimizer step: of each micro-batch, of rollouts as often as there are some, and of the update."""
    bounds = {name: marks.first(name) for name, _ in marks.starts}
    learned, stepped = bounds["forward"], bounds["clipping"]

    def between(first: int, last: int) -> int:
        return sum(flops for at, flops in follow.flops if first <= at < last)

    arguments = trainer.args
    accumulated = arguments.gradient_accumulation_steps
    total = between(learned, stepped) * accumulated + between(stepped, follow.now + 1)
    if is_online(trainer):
        drawn = between(bounds[rollout.PREFILL], bounds[rollout.DECODE])
        drawn += between(bounds[rollout.DECODE], bounds[rollout.SCORING]) * (arguments.max_completion_length - 1)
        drawn += between(bounds[rollout.SCORING], learned)
        total += drawn * accumulated // (arguments.steps_per_generation * arguments.num_iterations)
    return total
