"""A run's result on disk: saved so that plain transformers and peft load it, and loaded for evaluation."""

from __future__ import annotations

import copy
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from alignkit.errors import Problem
from alignkit.model_folders import BASE, labels_in_adapter
from alignkit.models.adapters import load_adapter
from alignkit.models.build import load_base, quantization_config, safetensors_option, settle_token_ids
from alignkit.models.precision import Precision, choose_device, computes_bfloat16, evaluation_precision
from alignkit.models.stack import join_adapters, stacked_layers
from alignkit.models.start import resolve_start
from alignkit.models.tokenizer import load_tokenizer, settle_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from alignkit.recipe import Head


def save_result(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    state_dict: dict[str, torch.Tensor] | None = None,
    *,
    max_shard_size: str | None = None,
) -> None:
    """Write a full model or an adapter, with tokenizer and generation config, as safetensors into `folder`.

    Everything is written beside it first, so that `folder` is complete or absent; an older one is replaced. An adapter
    names its base by absolute path or Hub id; a base that exists nowhere else is saved as `folder/base`. `state_dict`
    is the gathered one where the weights are sharded; then only the main process calls this. `max_shard_size` ("5GB")
    cuts a full model into several files.
    """
    folder = Path(folder).absolute()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if hasattr(model, "peft_config"):
        _save_adapter(model, folder, partial, state_dict)
    else:
        _sane_generation_config(model)
        shards = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        model.save_pretrained(partial, state_dict=state_dict, **shards)
    tokenizer.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def _save_adapter(model: Any, folder: Path, partial: Path, state_dict: dict[str, torch.Tensor] | None) -> None:
    base = model.get_base_model()
    config = model.peft_config["default"]
    stacked = stacked_layers(base)
    if not base.name_or_path:
        _sane_generation_config(base)
        base.save_pretrained(partial / BASE, state_dict=_base_weights(base))
        config.base_model_name_or_path = str(folder / BASE)
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # or loading it would change the base a second time
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not find a config file")  # of a base out of reach, or not moved yet
        model.save_pretrained(partial, selected_adapters=["default"], state_dict=state_dict)
    if config.task_type != "CAUSAL_LM":
        _head_config(base).save_pretrained(partial)  # the labels: an adapter's own config has no room for them
    if stacked:
        join_adapters(partial, stacked)


def _head_config(base: PreTrainedModel) -> Any:
    """The base's config, without how its weights were quantised while the adapter was trained."""
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _base_weights(base: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The base's own weights under their own names, without what PEFT put between."""
    weights = {}
    for name, tensor in base.state_dict().items():
        if any(part in name for part in (".lora_", "modules_to_save.", "token_adapter.trainable_")):
            continue
        for wrapper in (".base_layer", ".original_module", ".token_adapter"):
            name = name.replace(wrapper, "")
        weights[name] = tensor
    return weights


def _sane_generation_config(model: PreTrainedModel) -> None:
    """Upstream refuses to save sampling settings without `do_sample`; models on the Hub come with such."""
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True


def load_result(
    folder: str | Path,
    precision: Precision | None = None,
    head: Head = "causal_lm",
    *,
    revision: str | None = None,
    quantization: dict[str, Any] | None = None,
    dequantize: bool = False,
    base: str | None = None,
    base_revision: str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel | Any, PreTrainedTokenizerBase]:
    """Load a run's result, a model folder, an adapter folder (with its base) or a Hub id, ready to evaluate.

    With `precision` the weights take its `frozen_dtype`; without, the type they were saved in, or float32 where the
    device computes no bfloat16. `quantization` holds BitsAndBytesConfig's fields; with `dequantize` its weights are
    brought back to floating point, rounded as they are. `base` is where an adapter's base lies now. Raises UserError.
    """

    def complain(field: str | None, message: str, hint: str | None = None) -> Problem:
        return Problem(message, field=field, hint=hint)

    start = resolve_start(str(folder), revision, complain)
    if base is not None:
        start = replace(start, base=base, base_revision=base_revision)
    device = precision.device if precision is not None else choose_device()
    dtype: Any = precision.frozen_dtype if precision is not None else "auto"
    options: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": safetensors_option(start.base, only=use_safetensors),
    }
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if quantization is not None:
        settled = precision or evaluation_precision(device, computes_bfloat16(device))
        options["quantization_config"] = quantization_config(quantization, settled, complain)
    if start.adapter is not None and head != "causal_lm":
        if (Path(start.adapter) / "config.json").is_file():
            options["config"] = AutoConfig.from_pretrained(start.adapter, trust_remote_code=trust_remote_code)
        elif (labels := labels_in_adapter(start.adapter)) is not None:
            options["num_labels"] = labels
    model: Any = load_base(start, head, complain, **options)
    if dtype == "auto" and model.dtype != torch.float32 and not computes_bfloat16(device) and quantization is None:
        model = model.float()
    if dequantize and getattr(model, "hf_quantizer", None) is not None:
        model = model.dequantize()
    if start.adapter is not None:
        model = load_adapter(model, start, complain, is_trainable=False)
    tokenizer = load_tokenizer(complain, start.tokenizer, start.tokenizer_revision, trust_remote_code)
    settle_special_tokens(tokenizer, [])
    settle_token_ids(model.get_base_model() if start.adapter is not None else model, tokenizer)
    return (model if quantization is not None else model.to(device)).eval(), tokenizer
