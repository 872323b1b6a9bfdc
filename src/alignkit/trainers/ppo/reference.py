"""The frozen reference of a policy without adapters: a copy made here, where GRPOTrainer would load one by name."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from alignkit.trainers.ppo.config import PPOConfig

if TYPE_CHECKING:
    from alignkit.trainers.ppo.trainer import PPOTrainer


def own_reference(model: Any, args: PPOConfig, others: dict[str, Any]) -> Any:
    """A copy of the policy as it is before training: the KL is 0 at step 0, wherever the policy came from.

    None where GRPOTrainer does better: without a reference, with adapters, for a path, and where ZeRO-3 has cut the
    weights up.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    adapted = others.get("peft_config") is not None or is_peft_model(model)
    if args.beta == 0.0 or isinstance(model, str) or adapted or is_deepspeed_zero3_enabled():
        return None
    return copy.deepcopy(model)


@contextlib.contextmanager
def reference_given(args: PPOConfig, reference: Any) -> Iterator[None]:
    """GRPOTrainer's constructor loads a reference unless beta is 0; with one at hand, it sees 0 inside this block."""
    beta = args.beta
    args.beta = beta if reference is None else 0.0
    try:
        yield
    finally:
        args.beta = beta


def prepared(trainer: PPOTrainer, reference: Any) -> Any:
    """The reference frozen, with TRL's fused head, and wrapped, as GRPOTrainer does with the one it loads."""
    args: Any = trainer.args
    reference.requires_grad_(False)
    if args.disable_dropout:
        disable_dropout_in_model(reference)
    add_fused_lm_head(reference, temperature=args.temperature, cast_lm_head_to_fp32=args.cast_lm_head_to_fp32)
    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(reference, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(reference, trainer.accelerator)
    return trainer.accelerator.prepare_model(reference, evaluation_mode=True)
