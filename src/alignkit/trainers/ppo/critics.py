"""The critic: a model of its own, a head on the policy's backbone, or a small trunk of its own on it.

A critic maps a batch of sequences to the value of the state after each token, (B, L) in float32. It hangs below the
policy's base model as its submodule `critic`, so that the optimizer, DDP, FSDP and DeepSpeed see one model.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

NAME = "critic"  # of the submodule below the policy, and of the folder beside its weights
WEIGHTS = "critic.safetensors"
DESCRIPTION = "critic.json"
KINDS = ("model", "head", "trunk", "none")


def value_head(width: int) -> nn.Linear:
    """A linear layer to one number that starts at zero: the first advantages are the returns, not a random critic's."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Position ids (B, L) that count a row's own tokens, wherever its padding stands (N+, detail 5)."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _evaluate(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """(B, L, width) -> (B, L), in float32 also under autocast: values are regressed to a few per cent."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(head.weight.dtype)).squeeze(-1).float()


class Critic(nn.Module):
    """Base of the three. `shares_backbone`: it reads the hidden states of the policy's forward pass."""

    kind: str
    shares_backbone = True
    detached = False
    """Whether the value loss stops here, instead of training the policy's backbone too."""

    def describe(self) -> dict[str, Any]:
        """What `build` needs to make an empty one of the same shape."""
        raise NotImplementedError

    def forward(
        self, hidden: torch.Tensor | None, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Values (B, L) from the policy's last hidden states (B, L, width), or from ids and mask (B, L)."""
        raise NotImplementedError


class HeadCritic(Critic):
    """A linear head on the policy's last hidden states; its loss trains the shared backbone too, unless detached."""

    kind = "head"

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.value_head = value_head(hidden_size)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "hidden_size": self.hidden_size}

    def forward(
        self, hidden: torch.Tensor | None, _input_ids: torch.Tensor, _attention_mask: torch.Tensor
    ) -> torch.Tensor:
        assert hidden is not None
        return _evaluate(self.value_head, hidden.detach() if self.detached else hidden)


class TrunkCritic(Critic):
    """A few causal transformer layers of its own, and a head, on the policy's hidden states, which it never changes.

    With adapters, critic, policy and reference thus share one (quantised) base model: the trunk adds
    12 · layers · width² parameters.
    """

    kind = "trunk"
    detached = True

    def __init__(self, hidden_size: int, layers: int = 2, width: int | None = None) -> None:
        super().__init__()
        width = min(hidden_size, 1024) if width is None else width
        self.shape = {"hidden_size": hidden_size, "layers": layers, "width": width}
        self.inwards = nn.Sequential(nn.RMSNorm(hidden_size), nn.Linear(hidden_size, width, bias=False))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.value_head = value_head(width)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.shape}

    def forward(
        self, hidden: torch.Tensor | None, _input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        assert hidden is not None
        length = attention_mask.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=hidden.device)  # padding attends to itself: no empty row
        visible = (earlier & attention_mask[:, None, :].bool()) | itself
        state = self.inwards(hidden.detach().to(self.value_head.weight.dtype))
        for layer in self.layers:
            state = layer(state, visible[:, None])
        return _evaluate(self.value_head, self.norm(state))


class _Layer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.outwards = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, state: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        batch, length, width = state.shape
        split = self.queries_keys_values(self.attention_norm(state)).view(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        state = state + self.outwards(seen.transpose(1, 2).reshape(batch, length, width))
        return state + self.mlp(self.mlp_norm(state))


class ModelCritic(Critic):
    """A whole model of its own with a value head: any `AutoModel` that reads the policy's tokens.

    Args:
        backbone: a model whose output has `last_hidden_state`.
    """

    kind = "model"
    shares_backbone = False

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.value_head = value_head(backbone.config.get_text_config().hidden_size)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "config": self.backbone.config.to_dict()}

    def forward(
        self, _hidden: torch.Tensor | None, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if "position_ids" in inspect.signature(type(self.backbone).forward).parameters:
            inputs["position_ids"] = positions_of(attention_mask)
        output = self.backbone(**inputs)
        return _evaluate(self.value_head, output.last_hidden_state)


# ---------------------------------------------------------------------- to disk and back
def build(description: dict[str, Any]) -> Critic:
    """An empty critic from what `describe` gave."""
    kind, rest = description["kind"], {key: value for key, value in description.items() if key != "kind"}
    if kind == "head":
        return HeadCritic(**rest)
    if kind == "trunk":
        return TrunkCritic(**rest)
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(**rest["config"])
    return ModelCritic(AutoModel.from_config(config))


def save_critic(critic: Critic, folder: str | Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write `critic` into `folder`; `weights` are its gathered ones where they are sharded."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = critic.state_dict() if weights is None else weights
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / DESCRIPTION).write_text(json.dumps(critic.describe(), indent=1, default=str) + "\n", encoding="utf-8")


def is_critic(folder: str | Path) -> bool:
    """Whether `save_critic` wrote this folder."""
    return (Path(folder) / DESCRIPTION).is_file()


def load_critic(folder: str | Path) -> Critic:
    """The critic that `save_critic` wrote into `folder`."""
    critic = build(json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8")))
    load_weights(critic, folder)
    return critic


def load_weights(critic: Critic, folder: str | Path) -> None:
    """Fill `critic` with the weights in `folder`, where they are the same shape; its device and types stay."""
    critic.load_state_dict(load_file(Path(folder) / WEIGHTS))


@contextlib.contextmanager
def without_critic(base: nn.Module) -> Iterator[None]:
    """The policy's base model as it is to others: its critic is no part of it inside this block."""
    critic = base._modules.pop(NAME)
    try:
        yield
    finally:
        base._modules[NAME] = critic


def hiding_critic(base: nn.Module, sync: Callable[[], None]) -> Callable[[], None]:
    """`sync` as vLLM's engine wants it: it streams every parameter below the policy, and knows no critic."""

    def synced() -> None:
        with without_critic(base):
            sync()

    return synced
