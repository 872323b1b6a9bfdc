"""What keeps a simulation apart from the process that it runs in."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What libraries and trainers warn of is about numbers that mean nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Python's collector comes at arbitrary moments: what it frees would differ between simulations."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Accelerate keeps one state a process: the simulation gets its own, and a run's stays as it is."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    classes = (AcceleratorState, GradientState, PartialState)
    before = [dict(cls._shared_state) for cls in classes]
    for cls in classes:
        cls._shared_state.clear()
    try:
        yield
    finally:
        for cls, state in zip(classes, before, strict=True):
            cls._shared_state.clear()
            cls._shared_state.update(state)


GROUP = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
GROUPS = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_")


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """In one of several processes, the simulation is of one alone: it must not wait for the others to join a group."""
    taken = {name: value for name, value in os.environ.items() if name in GROUP or name.startswith(GROUPS)}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


@contextlib.contextmanager
def nowhere() -> Iterator[Path]:
    """A folder for what must have one: trainers make their output folder."""
    with tempfile.TemporaryDirectory(prefix="alignkit-plan-") as folder:
        yield Path(folder)
