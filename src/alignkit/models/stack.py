"""An adapter on top of an adapter, without merging: the old one stays beside the weights, frozen.

PEFT can hold two active adapters, but a trainer's checkpoint brings only one of them back to activity, and what TRL
takes for the reference (the model with its adapters off) would lose the old one. Here the old LoRA becomes part of the
base: a forward hook adds s·B·A·x to each layer it adapted (Hu et al., LoRA, 2021, equation 3). That is exact on
quantised weights too. The result is one plain adapter for the original base: the two side by side, their ranks added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from alignkit.errors import UserError
from alignkit.models.adapters import load_adapter
from alignkit.models.upstream import Complain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignkit.models.start import Start

_A, _B = "stacked_lora_A", "stacked_lora_B"
_PLAIN = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "target_parameters": "target_parameters",
    "layer_replication": "layer_replication",
}


def stack_adapter(base: PreTrainedModel, start: Start, complain: Complain, head: str = "causal_lm") -> PreTrainedModel:
    """The base with the start's LoRA added to its layers' outputs, frozen. Raises UserError for another adapter."""
    from peft.tuners.lora import LoraLayer

    model = load_adapter(base, start, complain, is_trainable=False, head=head)
    config = model.peft_config["default"]
    refuse_unless_plain(config.to_dict(), complain, f"the adapter {start.adapter}", modules_to_save=False)
    low_rank = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            down, up = (dict(part.items()).get("default") for part in (layer.lora_A, layer.lora_B))
            if not isinstance(down, nn.Linear) or not isinstance(up, nn.Linear):
                message = (
                    f"the adapter {start.adapter} adapts {name}, which is no linear layer: it cannot be stacked on"
                )
                raise UserError(complain("adapter.on_top_of", message, "merge it"))
            low_rank[name] = down.weight.detach(), up.weight.detach() * layer.scaling["default"]
    plain = model.unload()
    for name, (down, up) in low_rank.items():
        module = plain.get_submodule(name)
        module.register_buffer(_A, down, persistent=False)
        module.register_buffer(_B, up, persistent=False)
        module.register_forward_hook(_add_low_rank)
    return plain


def refuse_unless_plain(config: dict[str, Any], complain: Complain, what: str, *, modules_to_save: bool = True) -> None:
    """Raise a UserError unless the adapter is a sum of low-rank products, which is what can be put side by side."""
    odd = [word for field, word in _PLAIN.items() if config.get(field)]
    if config.get("peft_type", "LORA") != "LORA":
        odd.append(str(getattr(config["peft_type"], "value", config["peft_type"])))
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if not modules_to_save and (config.get("modules_to_save") or config.get("trainable_token_indices")):
        odd.append("modules_to_save")
    if isinstance(config.get("init_lora_weights"), str) and config["init_lora_weights"] not in (
        "gaussian",
        "orthogonal",
    ):
        odd.append(f"init_lora_weights: {config['init_lora_weights']}")
    if odd:
        message = f"only plain LoRA can be stacked; {what} has {', '.join(odd)}"
        raise UserError(complain("adapter.on_top_of", message, "use merge"))


def _add_low_rank(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    down, up = getattr(module, _A), getattr(module, _B)
    added = nn.functional.linear(nn.functional.linear(inputs[0].to(down.dtype), down), up)
    return output + added.to(output.dtype)


def stacked_layers(base: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name in the plain base -> (A of shape (r, in), s·B of shape (out, r)) of each layer that an old adapter is on."""
    return {
        name.replace(".base_layer", ""): (getattr(module, _A), getattr(module, _B))
        for name, module in base.named_modules()
        if hasattr(module, _A)
    }


def join_adapters(folder: Path, old: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Rewrite the adapter just saved in `folder` as old and new side by side, each with its scale inside its B."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    weights = load_file(folder / "adapter_model.safetensors")
    prefix, down_key, up_key = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    new = {key.removeprefix(prefix).removesuffix(down_key) for key in weights if key.endswith(down_key)}
    ranks: dict[str, int] = {}
    for name in sorted(new | set(old)):
        downs, ups = [], []
        if name in old:
            downs.append(old[name][0].float().cpu())
            ups.append(old[name][1].float().cpu())
        if name in new:
            downs.append(weights[prefix + name + down_key].float())
            ups.append(weights[prefix + name + up_key].float() * _scale(config, name, downs[-1].shape[0]))
        weights[prefix + name + down_key] = torch.cat(downs, dim=0).contiguous()
        weights[prefix + name + up_key] = torch.cat(ups, dim=1).contiguous()
        ranks[name] = sum(down.shape[0] for down in downs)
    widest = max(ranks.values())
    odd = {name: rank for name, rank in ranks.items() if rank != widest}
    config |= {"r": widest, "lora_alpha": widest, "rank_pattern": odd, "alpha_pattern": odd, "use_rslora": False}
    config |= {"target_modules": sorted(ranks), "exclude_modules": None, "layers_to_transform": None}
    config |= {"layers_pattern": None, "init_lora_weights": True}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _scale(config: dict[str, Any], name: str, rank: int) -> float:
    """alpha / r, or alpha / √r for rank-stabilised LoRA (Kalajdzievski, 2023)."""
    from peft.utils.other import get_pattern_key

    patterns = config["alpha_pattern"] or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), name), config["lora_alpha"])
    return alpha / (rank**0.5 if config["use_rslora"] else rank)
