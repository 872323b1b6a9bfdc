"""The reference of TRL's online trainers: they load one by the policy's name; here they are handed ours."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import add_fused_lm_head

if TYPE_CHECKING:
    from alignkit.models.reference import Reference


@contextlib.contextmanager
def loading(trainer_class: type, reference: Reference | None) -> Iterator[None]:
    """While a trainer is built: TRL's `create_model_from_path` gives the reference's model."""
    if reference is None or reference.model is None:
        yield
        return
    modules = [
        sys.modules[cls.__module__] for cls in trainer_class.__mro__ if cls.__module__.startswith("trl.trainer.")
    ]
    patched: Any = next(module for module in modules if hasattr(module, "create_model_from_path"))
    kept = patched.create_model_from_path
    patched.create_model_from_path = lambda *_args, **_kwargs: reference.model
    try:
        yield
    finally:
        patched.create_model_from_path = kept


def settle(trainer: Any, reference: Reference | None) -> None:
    """After a trainer is built. For a policy with an adapter TRL switches that off, or keeps a frozen copy of it; a
    reference of its own, which the recipe names, is put in place here."""
    if reference is None:
        return
    reference.settle(trainer.model)
    if reference.model is not None and trainer.ref_model is None and trainer.beta != 0.0:
        add_fused_lm_head(reference.model, temperature=trainer.temperature)
        trainer.ref_model = trainer.accelerator.prepare_model(reference.model, evaluation_mode=True)
