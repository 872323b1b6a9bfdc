"""A dispatch mode that follows a simulation: which storages live when, the operations, their FLOPs, and small values.

It stands on top of a FakeTensorMode. Floating-point tensors are fake: they have a size and no values. Integers and
booleans are computed for real beside their fake tensors, because training code reads them: how many positions are
learned, whether a mask is all ones. What is read of a fake float (a loss for the log) is answered by `READ`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
READ = 0.0
"""What `.item()` of a fake float gives: a loss, a difference or an error that no code takes for a reason to stop."""
MOST_INTEGERS = 2**24
_VALUE = "_alignkit_value"
_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
_ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class CannotSimulate(Exception):
    """The code asks for values that a simulation does not have."""


@dataclass(slots=True)
class Block:
    """One storage: its bytes, and the operations between which it lived (`end` is None while it lives)."""

    size: int
    start: int
    part: str | None = None
    end: int | None = None
    wide: bool = False
    """Whether its rows are as long as the vocabulary."""


def value_of(tensor: Any) -> torch.Tensor | None:
    """The real values of a fake tensor, where they are known."""
    found: torch.Tensor | None = getattr(tensor, _VALUE, None)
    return found


class Follow(TorchDispatchMode):
    """See the module. `widths`: row lengths that tell logits from other activations."""

    def __init__(self, fake: FakeTensorMode, widths: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.fake = fake
        self.widths = widths
        self.blocks: list[Block] = []
        self.names: list[int] = []
        self.flops: list[tuple[int, int]] = []  # (operation, FLOPs)
        self._live: dict[int, tuple[Any, Block]] = {}

    @property
    def now(self) -> int:
        """The number of operations so far."""
        return len(self.names)

    # ------------------------------------------------------------------ values in
    def put(self, real: torch.Tensor) -> torch.Tensor:
        """A fake tensor for `real`, with its values beside it."""
        with _disable_current_modes():
            copy = real.detach().clone()
        fake: torch.Tensor = self.fake.from_tensor(copy)
        self._keep(fake, copy)
        self._note(fake)
        return fake

    # ------------------------------------------------------------------ every operation
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return _read(args[0])
        if (special := _SPECIAL.get(func)) is not None:
            out = special(self, func, args, kwargs)
        else:
            out = func(*args, **kwargs)
            self._follow_values(func, args, kwargs, out)
        self.names.append(hash(func))
        for tensor in _tensors(out):
            self._note(tensor)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if func is _ATTENTION:
            flops = 2 * _attention_product(*args[:2])
        elif func is _ATTENTION_BACKWARD:
            flops = 5 * _attention_product(*args[1:3])
        elif (formula := flop_registry.get(func._overloadpacket)) is not None:
            flops = formula(*args, **kwargs, out_val=out)
        else:
            return
        self.flops.append((self.now - 1, int(flops)))

    def add_flops(self, flops: int) -> None:
        """FLOPs of a kernel that is no operation here."""
        self.flops.append((max(self.now - 1, 0), flops))

    @property
    def all_flops(self) -> int:
        """FLOPs so far."""
        return sum(flops for _, flops in self.flops)

    # ------------------------------------------------------------------ storages
    def _note(self, tensor: torch.Tensor) -> None:
        if type(tensor) is torch.Tensor:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        wide = tensor.dim() > 1 and tensor.shape[-1] in self.widths
        block = Block(size, max(self.now - 1, 0), wide=wide)
        self.blocks.append(block)

        def freed(_: Any, key: int = key, block: Block = block) -> None:
            block.end = len(self.names)
            self._live.pop(key, None)

        self._live[key] = (weakref.ref(storage, freed), block)

    def name(self, tensor: torch.Tensor, part: str) -> None:
        """Say of which part of the plan a tensor's storage is; the first name stays."""
        self._note(tensor)
        block = self._live[tensor.untyped_storage()._cdata][1]
        if block.part is None:
            block.part = part

    # ------------------------------------------------------------------ values
    def _keep(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        setattr(fake, _VALUE, real)

    def _follow_values(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given, results = list(_tensors((args, kwargs))), list(_tensors(out))
        known = all(_VALUE in tensor.__dict__ or type(tensor) is torch.Tensor for tensor in given)
        judged = not known and all(not tensor.is_floating_point() for tensor in results)  # a float counts as READ
        if not (known or judged) or not results or not all(_small(tensor) for tensor in results):
            if func._schema.is_mutable:
                _forget(func, args, kwargs)
            return
        with _disable_current_modes():
            reals = func(*_map(args), **_map(kwargs))
        for fake, real in zip(results, _tensors(reals), strict=True):
            if isinstance(fake, FakeTensor):
                self._keep(fake, real)
        return


def _small(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values are worth following; of floats only scalars are (counts, thresholds)."""
    return tensor.dim() == 0 if tensor.is_floating_point() else tensor.numel() <= MOST_INTEGERS


def _forget(func: Any, args: Any, kwargs: Any) -> None:
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(value):
                tensor.__dict__.pop(_VALUE, None)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _map(value: Any) -> Any:
    """Arguments with the real values in place of fake tensors."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, FakeTensor) and _VALUE not in value.__dict__:
            return torch.full(value.shape, READ, dtype=value.dtype)
        return value.__dict__.get(_VALUE, value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item) for item in value)
    if isinstance(value, dict):
        return {key: _map(item) for key, item in value.items()}
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _read(tensor: torch.Tensor) -> Any:
    real = value_of(tensor)
    if real is not None:
        with _disable_current_modes():
            return real.item()
    if tensor.is_floating_point():
        return READ
    raise CannotSimulate("its code reads integers that depend on the model's outputs")


def _attention_product(query: torch.Tensor, key: torch.Tensor) -> int:
    """FLOPs of one product of queries (B, H, T, D) and keys (B, H', S, D), all positions counted."""
    batch, heads, length, size = query.shape
    return 2 * batch * heads * length * key.shape[2] * size


# ---------------------------------------------------------------------- shapes that depend on values
def _need(tensor: torch.Tensor) -> torch.Tensor:
    real = value_of(tensor)
    if real is None:
        raise CannotSimulate("the shapes of its tensors depend on the model's outputs")
    return real


def _positions(follow: Follow, mask: torch.Tensor) -> list[torch.Tensor]:
    """Of a boolean mask (…): the index along each of its dimensions, as indexing makes them."""
    with _disable_current_modes():
        found = _need(mask).nonzero(as_tuple=True)
    return [follow.put(index) for index in found]


def _expanded(follow: Follow, indices: Any) -> list[Any]:
    result: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            result.extend(_positions(follow, index))
        else:
            result.append(index)
    return result


def _index(follow: Follow, func: Any, args: Any, kwargs: Any) -> Any:
    indices = _expanded(follow, args[1])
    out = func(args[0], indices, *args[2:], **kwargs)
    follow._follow_values(func, (args[0], indices, *args[2:]), kwargs, out)
    return out


def _nonzero(follow: Follow, func: Any, args: Any, kwargs: Any) -> Any:
    with _disable_current_modes():
        real = func(_need(args[0]), **kwargs)
    return follow.put(real)


def _masked_select(_follow: Follow, _func: Any, args: Any, _kwargs: Any) -> Any:
    source, mask = torch.broadcast_tensors(args[0], args[1])
    with _disable_current_modes():
        count = int(torch.broadcast_to(_need(args[1]), mask.shape).sum())
    return source.new_empty(count)


def _counted(follow: Follow, func: Any, args: Any, kwargs: Any) -> Any:
    with _disable_current_modes():
        for tensor in _tensors((args, kwargs)):
            _need(tensor)
        real = func(*_map(args), **_map(kwargs))
    puts = [follow.put(tensor) for tensor in _tensors(real)]
    return puts[0] if isinstance(real, torch.Tensor) else tuple(puts)


def _lift(follow: Follow, func: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(args[0], FakeTensor):
        out = func(*args, **kwargs)
        follow._follow_values(func, args, kwargs, out)
        return out
    return follow.put(args[0])


_SPECIAL = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index,
    aten.index_put_.default: _index,
    aten._index_put_impl_.default: _index,
    aten._unsafe_index_put.default: _index,
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.repeat_interleave.Tensor: _counted,
    aten._unique2.default: _counted,
    aten.unique_consecutive.default: _counted,
    aten.lift_fresh.default: _lift,
}
