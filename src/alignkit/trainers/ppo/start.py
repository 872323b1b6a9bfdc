"""Where a critic comes from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from trl.trainer.utils import disable_dropout_in_model

from alignkit.trainers.ppo import critics
from alignkit.trainers.ppo.critics import Critic, HeadCritic, ModelCritic, TrunkCritic

if TYPE_CHECKING:
    from alignkit.trainers.ppo.trainer import PPOTrainer


def build_critic(trainer: PPOTrainer, base: Any, given: str | Path | nn.Module | None) -> Critic | None:
    """The critic of a trainer whose policy stands on `base`, on its device, or None for `critic_kind: none`.

    Its random numbers are drawn apart: GRPOTrainer has just seeded each process for its own rollouts.
    """
    args = trainer.args
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        critic = _from(given) if given is not None else _new(trainer, base)
    if critic is None:
        return None
    if args.disable_dropout:
        disable_dropout_in_model(critic)
    critic.requires_grad_(True)
    kept = torch.bfloat16 if critic.kind == "model" and _purely(base, torch.bfloat16) else torch.float32
    device = next(parameter.device for parameter in base.parameters() if parameter.device.type != "meta")
    return critic.to(device=device, dtype=kept).train()


def _from(given: str | Path | nn.Module) -> Critic:
    if isinstance(given, Critic):
        return given
    if isinstance(given, nn.Module):
        return ModelCritic(given)
    if critics.is_critic(given):
        return critics.load_critic(given)
    from transformers import AutoModel

    return ModelCritic(AutoModel.from_pretrained(given, dtype=torch.float32))


def _new(trainer: PPOTrainer, base: Any) -> Critic | None:
    args, width = trainer.args, base.config.get_text_config().hidden_size
    if args.critic_kind == "none":
        return None
    if args.critic_kind == "head":
        return HeadCritic(width)
    if args.critic_kind == "trunk":
        return TrunkCritic(width, args.critic_layers, args.critic_width)
    return ModelCritic(_reward_backbone(trainer) or _policy_backbone(trainer, base))


def _reward_backbone(trainer: PPOTrainer) -> Any:
    """A copy of the first reward model's backbone that has the policy's tokens (N+, detail 6), or None."""
    tokens = trainer.processing_class
    for function, reads in zip(trainer.reward_funcs, trainer.reward_processing_classes, strict=True):
        if isinstance(function, nn.Module):
            model: Any = trainer.accelerator.unwrap_model(function)
            alike = getattr(reads, "get_vocab", dict)() == getattr(tokens, "get_vocab", list)()
            if alike and not getattr(model, "is_quantized", False) and not is_peft_model(model):
                return copy.deepcopy(model.base_model)
    return None


def _policy_backbone(trainer: PPOTrainer, base: Any) -> Any:
    """A copy of the policy's own backbone; from its folder where adapters stand in it."""
    if not is_peft_model(trainer.model):
        return copy.deepcopy(base.base_model)
    from transformers import AutoModel

    if not base.name_or_path:
        raise ValueError("a critic of its own needs a model to start from: name one, or take critic_kind 'trunk'")
    return AutoModel.from_pretrained(base.name_or_path, dtype=torch.float32)


def _purely(base: Any, dtype: torch.dtype) -> bool:
    """Whether everything trained is of this type: the user chose to train without float32 weights."""
    trained = [parameter for parameter in base.parameters() if parameter.requires_grad]
    return bool(trained) and all(parameter.dtype == dtype for parameter in trained)
