"""Before the first step the policy must be its reference. If it is not, every reward of the run is measured from a
wrong zero, and nothing in the loss shows it (huggingface/trl#872, #652, #6591)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import torch

from alignkit.errors import Problem, UserError
from alignkit.models import Reference
from alignkit.models.reference import ADAPTER

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Nats a token by which two computations of the same model may differ, by the type they compute in."""
Complain = Callable[[str, str, str | None], Problem]
Inputs = dict[str, torch.Tensor]


def require_equal_start(
    trainer: Any,
    reference: Reference,
    complain: Complain,
    afresh: Callable[[], Any],
    dtype: torch.dtype,
    say: Callable[[str], None],
) -> None:
    """Compare policy and reference on the first batch; raise a UserError that says which of the two strayed.

    A reference that the recipe names is another model on purpose: then the distance is only told.

    Args:
        trainer: with its untrained model and its reference in place.
        afresh: loads what the recipe says training starts from, or returns None where there is no such thing.
        dtype: of the products.
    """
    inputs = _first_batch(trainer)
    policy = answer_log_probs(trainer, trainer.model, inputs)
    held = _reference_log_probs(trainer, reference, inputs)
    apart = nats_a_token(policy, held, inputs)
    if reference.named:
        say(f"reference: {reference.name}; at step 0 the policy is {apart:.4f} nats a token away from it")
        return
    if apart <= TOLERANCE[dtype]:
        return
    start = afresh()
    message = f"at step 0 the policy's log-probabilities are {apart:.4f} nats a token from the reference's"
    if start is not None:
        begun = answer_log_probs(trainer, start, inputs, plain=True)
        far = {"policy": nats_a_token(policy, begun, inputs), "reference": nats_a_token(held, begun, inputs)}
        strayed = max(far, key=lambda word: far[word])
        message += f": the {strayed} is not {reference.name} ({far[strayed]:.4f} nats a token away from it)"
    hint = "an adapter must begin as no change: leave adapter.init_lora_weights out, or name the `reference`"
    raise UserError(complain("adapter" if hasattr(trainer.model, "peft_config") else "model", message, hint))


def nats_a_token(one: torch.Tensor, other: torch.Tensor, inputs: Inputs) -> float:
    """The mean absolute difference over the answers' tokens of log-probabilities, (N, T - 1) each."""
    tokens = inputs["completion_mask"][:, 1:].to(one.device)
    return float(((one - other.to(one.device)).abs() * tokens).sum() / tokens.sum().clamp(min=1))


@torch.no_grad()
def answer_log_probs(
    trainer: Any, model: Any, inputs: Inputs, adapter: str = "on", plain: bool = False
) -> torch.Tensor:
    """Log-probabilities of the answers' tokens, (N, T - 1), zero elsewhere, with dropout off.

    Args:
        adapter: `on` as the model stands, `off`, or the name of the adapter to use instead.
        plain: the model is not one of the trainer's, and has no fused head.
    """
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import add_fused_lm_head, use_adapter

    if plain:
        add_fused_lm_head(model)
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    training = model.training
    model.eval()
    with contextlib.ExitStack() as stack:
        if adapter != "on":
            stack.enter_context(use_adapter(model, None if adapter == "off" else adapter))
        stack.enter_context(disable_gradient_checkpointing(model, trainer.args.gradient_checkpointing_kwargs))
        stack.enter_context(trainer.accelerator.autocast())
        found = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        ).log_probs
    model.train(training)
    return found[:, -(labels.shape[1] - 1) :].float()


def _reference_log_probs(trainer: Any, reference: Reference, inputs: Inputs) -> torch.Tensor:
    if reference.kind == "adapter_off":
        return answer_log_probs(trainer, trainer.model, inputs, "off")
    if reference.kind == "adapter_copy":
        return answer_log_probs(trainer, trainer.model, inputs, ADAPTER)
    return answer_log_probs(trainer, trainer.ref_model or trainer.model, inputs)


def _first_batch(trainer: Any) -> Inputs:
    rows = list(itertools.islice(trainer.train_dataset, trainer.args.per_device_train_batch_size))
    batch = trainer.data_collator(rows)
    return {key: value.to(trainer.args.device) for key, value in batch.items() if torch.is_tensor(value)}
