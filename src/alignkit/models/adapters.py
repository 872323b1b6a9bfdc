"""Adapters on a base model, through PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import UserError
from alignkit.models.heads import head_modules
from alignkit.models.upstream import Complain, raised_upstream, shortened

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from alignkit.models.start import Start
    from alignkit.recipe import Recipe

_TASK_TYPES = {"causal_lm": "CAUSAL_LM", "sequence_classification": "SEQ_CLS", "token_classification": "TOKEN_CLS"}
_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")
"""Ways of initialising LoRA that take something out of the base's weights."""
_KEPT = "alignkit_trainable_weights"


def new_adapter(recipe: Recipe, base: PreTrainedModel, head: str, revision: str | None) -> Any:
    """`get_peft_model` with the recipe's `adapter:`; raises UserError for values that PEFT or this model refuses."""
    import peft
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, get_peft_model

    assert recipe.adapter is not None
    fields = {"peft_type": "LORA", **recipe.adapter.arguments()}
    kind = fields.pop("peft_type")
    for name, config_class in recipe.adapter.nested_configs.items():
        if name in fields:
            fields[name] = getattr(peft, config_class)(**fields[name])
    if head != "causal_lm":  # PEFT itself knows heads by two names only; others it would neither train nor save
        fields["modules_to_save"] = sorted({*(fields.get("modules_to_save") or ()), *head_modules(base)})
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](**{"task_type": _TASK_TYPES[head], **fields})
        model = get_peft_model(base, config, revision=revision)
    except (ValueError, TypeError, KeyError, ImportError) as error:
        field = "adapter.target_modules" if "target" in str(error).lower() else "adapter"
        raise UserError(recipe.problem(field, f"PEFT refuses it ({shortened(error)})")) from error
    if changes_base(model):
        base.name_or_path = ""  # the adapter stands on what its initialisation left of the base
    return model


def changes_base(model: Any) -> bool:
    """Whether the adapter's initialisation took something out of the base, which alone is not the start any more."""
    return str(getattr(model.peft_config["default"], "init_lora_weights", True)).startswith(_CHANGING_INITS)


def continue_adapter(base: PreTrainedModel, start: Start, complain: Complain, head: str) -> Any:
    """The start's adapter on its base, to be trained further; with a new head where it was made for another one."""
    return load_adapter(base, start, complain, is_trainable=True, head=head)


def load_adapter(
    base: PreTrainedModel, start: Start, complain: Complain, *, is_trainable: bool, head: str | None = None
) -> Any:
    """`PeftModel.from_pretrained`, with what it raises turned into a UserError.

    Args:
        head: of the base, where it may not be the one that the adapter was made for (a reward model from an SFT
            adapter): peft then trains and saves the new head with the adapter, or only loads the low-rank weights.
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    assert start.adapter is not None
    if start.config is not None:  # a plan: the adapter's shape is enough
        with raised_upstream(complain, start.adapter):
            config = PeftConfig.from_pretrained(start.adapter)
            config.task_type = _TASK_TYPES[head] if head is not None and is_trainable else None
            config.inference_mode = not is_trainable
            return get_peft_model(base, config)
    with raised_upstream(complain, start.adapter):
        config = PeftConfig.from_pretrained(start.adapter, revision=start.adapter_revision)
        foreign = head is not None and config.task_type not in (None, _TASK_TYPES[head])
        if foreign and is_trainable:
            assert head is not None
            model = _with_new_head(base, start, config, head)
        else:
            config.task_type = None if foreign else config.task_type
            model = PeftModel.from_pretrained(
                base, start.adapter, revision=start.adapter_revision, is_trainable=is_trainable, config=config
            )
    if base.name_or_path:  # an absolute path, where the adapter may have named a relative one
        model.peft_config["default"].base_model_name_or_path = base.name_or_path
    return model


def _with_new_head(base: PreTrainedModel, start: Start, config: Any, head: str) -> Any:
    """The start's low-rank weights on a base with another head, which peft trains and saves as a whole."""
    from peft import get_peft_model, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    config.task_type, config.inference_mode = _TASK_TYPES[head], False
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # replaced at once; another way might change the base
    model = get_peft_model(base, config)
    weights = load_peft_weights(str(start.adapter), device="cpu", revision=start.adapter_revision)
    set_peft_model_state_dict(model, {**get_peft_model_state_dict(model), **weights})
    return model


def merge_adapter(base: PreTrainedModel, start: Start, complain: Complain, head: str = "causal_lm") -> PreTrainedModel:
    """The base with the start's adapter added into its weights, in their type; raises UserError if not finite."""
    model = load_adapter(base, start, complain, is_trainable=False, head=head)
    with raised_upstream(complain, str(start.adapter)):
        merged = model.merge_and_unload(safe_merge=True)
    merged.name_or_path = ""  # no folder holds it: a result that stands on it must bring it along
    return merged


# What TRL does to adapters of quantised models


def keep_trainable_weights(model: nn.Module) -> None:
    """Remember the trainable weights as they are now, for `restore_adapter_dtype`."""
    weights = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    setattr(model, _KEPT, weights)


def restore_adapter_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Undo TRL's cast of a quantised model's adapter to bfloat16; call it once a trainer is constructed.

    TRL's trainers cast on every device, which rounds the weights of an adapter that training goes on with, and is slow
    where the device only emulates bfloat16. The weights come back bit for bit where `build_model` kept them.
    """
    kept: dict[str, torch.Tensor] = getattr(model, _KEPT, {})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != dtype and parameter.is_floating_point():
            parameter.data = kept.get(name, parameter.data).to(device=parameter.device, dtype=dtype)
    if hasattr(model, _KEPT):
        delattr(model, _KEPT)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters. A 4-bit weight counts its real elements, a sharded one (ZeRO-3) its whole."""
    total = trainable = 0
    for parameter in model.parameters():
        number = parameter.numel() or getattr(parameter, "ds_numel", 0)
        if type(parameter).__name__ == "Params4bit":  # two to a byte of storage
            number *= 2 * parameter.element_size()
        total += number
        trainable += number if parameter.requires_grad else 0
    return total, trainable
