"""One forward pass that gives log-probabilities and values, through whatever wraps the model (DDP, FSDP, PEFT)."""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput

from alignkit.trainers.ppo.critics import NAME, Critic, positions_of


@dataclass
class ValuedOutput(FusedCausalLMOutput):
    """TRL's per-token output with the critic's values. A declared field, because DDP rebuilds outputs by their fields.

    Args:
        token_values (`torch.Tensor` of shape `(batch, seq_len)`):
            Value of the state after each token. (The name `values` would hide a dict's own method.)
    """

    token_values: torch.Tensor | None = None


def attach(base: Any, critic: Critic | None) -> None:
    """Hang `critic` below `base` and let `base(..., with_values=True)` return a `ValuedOutput`.

    `base` is a causal model that already has TRL's fused head. Without `with_values` its forward stays what it was,
    except that scoring passes get the position ids that padding on the left asks for, as generation gives them (N+,
    detail 5): a model with learned positions would else score other sequences than it drew.
    """
    inner = base.forward
    takes_positions = "position_ids" in inspect.signature(type(base).forward).parameters
    only_text = base.config.get_text_config() is base.config
    if critic is not None:
        setattr(base, NAME, critic)

    @functools.wraps(type(base).forward)  # generation checks its arguments against this signature
    def forward(self: Any, *args: Any, with_values: bool = False, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        if kwargs.get("fused_lm_head") and takes_positions and only_text and mask is not None:
            kwargs.setdefault("position_ids", positions_of(mask))
        if not with_values:
            return inner(*args, **kwargs)
        output, hidden = _with_hidden(self, inner, args, kwargs)
        values = getattr(self, NAME)(hidden, kwargs["input_ids"], mask)
        return ValuedOutput(**{**output, "token_values": values})

    base.forward = types.MethodType(forward, base)


def _with_hidden(model: Any, inner: Any, args: Any, kwargs: Any) -> tuple[Any, torch.Tensor | None]:
    """The inner forward's output and, for a critic that reads them, the last hidden states (B, L, width)."""
    if not getattr(model, NAME).shares_backbone:
        return inner(*args, **kwargs), None
    seen: list[torch.Tensor] = []
    handle = model.base_model.register_forward_hook(lambda _module, _args, out: seen.append(out.last_hidden_state))
    try:
        output = inner(*args, **kwargs)
    finally:
        handle.remove()
    return output, seen[-1]


class Tap:
    """Stands in for a model in one of TRL's passes over it: asks for values too, and keeps what came out.

    Attributes:
        logps, entropies: (B, L − 1), as the last call gave them, with their gradients.
        values: (B, L), or None where none were asked for.
    """

    def __init__(self, model: Any, with_values: bool) -> None:
        self.model, self.extra = model, {"with_values": True} if with_values else {}
        self.logps: list[torch.Tensor] = []
        self.entropies: list[torch.Tensor | None] = []
        self.values: list[torch.Tensor] = []

    def __call__(self, **inputs: Any) -> Any:
        output = self.model(**inputs, **self.extra)
        self.logps.append(output.log_probs)
        self.entropies.append(output.entropy)
        if self.extra:
            self.values.append(output.token_values)
        return output

    def last(self, columns: int) -> Pass:
        """All calls joined, for the last `columns` tokens."""
        entropies = [entropy for entropy in self.entropies if entropy is not None]
        return Pass(
            torch.cat(self.logps)[:, -columns:],
            torch.cat(entropies)[:, -columns:] if entropies else None,
            torch.cat(self.values)[:, -columns - 1 :] if self.values else None,
        )


@dataclass(frozen=True)
class Pass:
    """One pass over B completions of T tokens.

    Attributes:
        logps: (B, T), log-probabilities at the sampling temperature.
        entropies: (B, T), or None where they were not computed.
        values: (B, T + 1), of the state before each token and after the last; None without a critic.
    """

    logps: torch.Tensor
    entropies: torch.Tensor | None
    values: torch.Tensor | None
