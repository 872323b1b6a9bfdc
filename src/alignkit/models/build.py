"""The model of a recipe: its base, its vocabulary, its special tokens, its adapter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import UserError
from alignkit.model_folders import describe_folder
from alignkit.models.adapters import continue_adapter, keep_trainable_weights, merge_adapter, new_adapter
from alignkit.models.heads import draw_head, remember_fresh
from alignkit.models.loaded import check_loaded
from alignkit.models.precision import Precision
from alignkit.models.stack import refuse_unless_plain, stack_adapter
from alignkit.models.start import Start, recipe_start, start_field
from alignkit.models.tokenizer import stop_token_ids
from alignkit.models.upstream import Complain, complain_about, raised_upstream

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from alignkit.recipe import Head, Recipe

_AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}

_HEAD_SHAPE = ("id2label", "label2id", "problem_type")
"""What of a config decides how a head is built; its further fields are noted once it stands."""


def build_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    head: Head = "causal_lm",
    num_labels: int | None = None,
    *,
    start: str | Path | Start | None = None,
    notes: list[str] | None = None,
    head_config: Mapping[str, Any] | None = None,
    new_head: bool = False,
) -> PreTrainedModel | Any:
    """Build the model that training starts from: a PreTrainedModel, or a PeftModel where there is an adapter.

    `start` replaces `model.model_name_or_path` (the trained result of `model.from_recipe`). Seed before calling: a new
    adapter, a new head and `init: random` draw from torch's generator. What the user should know goes to `notes`
    (default: `precision.notes`). `head_config` holds fields of the model's config that shape its head (`id2label`,
    `problem_type`, …); with `new_head` a head that the checkpoint has is drawn anew. Raises UserError for a model that
    is missing, unreachable, broken or of a wrong kind.
    """
    notes = precision.notes if notes is None else notes
    found = recipe_start(recipe, start)
    adapted = recipe.adapter is not None or (found is not None and found.adapter is not None)
    dtype = precision.frozen_dtype if adapted else precision.trainable_dtype
    shape = {name: value for name, value in (head_config or {}).items() if name in _HEAD_SHAPE}
    extra = {**({} if num_labels is None else {"num_labels": num_labels}), **shape}
    if found is None:
        base = _random_model(recipe, tokenizer, precision, dtype, head, extra)
    else:
        complain = complain_about(recipe, start_field(recipe, start))
        options = load_options(recipe, precision, found, dtype)
        if new_head:
            options["ignore_mismatched_sizes"] = True
        base = load_base(found, head, complain, **options, **extra)
        if new_head:
            draw_head(base)
    for name, value in (head_config or {}).items():
        setattr(base.config, name, value)
    _match_vocabulary(recipe, base, tokenizer, notes)
    settle_token_ids(base, tokenizer)
    model = _with_adapter(recipe, base, found, head, start)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != precision.trainable_dtype:
            parameter.data = parameter.data.to(precision.trainable_dtype)
    if recipe.quantization is not None:
        keep_trainable_weights(model)
    return model


# The base model


def auto_class(head: Head) -> Any:
    """transformers' AutoModelFor… class of a head."""
    import transformers

    return getattr(transformers, _AUTO_CLASSES[head])


def load_base(start: Start, head: Head, complain: Complain, **options: Any) -> PreTrainedModel:
    """`from_pretrained` of the start's base model, with what it raises turned into a UserError."""
    if start.config is not None:
        from alignkit.models.shapes import model_of_shape

        with raised_upstream(complain, start.base):
            return model_of_shape(auto_class(head), start.config, options)
    with raised_upstream(complain, start.base):
        model, found = auto_class(head).from_pretrained(
            start.base, revision=start.base_revision or "main", output_loading_info=True, **options
        )
    check_loaded(model, found, head, start.base, complain)
    remember_fresh(model, found["missing_keys"])
    for module in model.modules():
        # On CPUs with AVX512-BF16, bitsandbytes (0.50) repacks 4-bit weights for inference at the first forward in
        # eval mode: layers whose width is no multiple of 32 fail there, and training cannot go on afterwards.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_options(recipe: Recipe, precision: Precision, start: Start, dtype: torch.dtype) -> dict[str, Any]:
    model = recipe.model
    options: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": model.trust_remote_code,
        "use_safetensors": safetensors_option(start.base, only=model.use_safetensors),
    }
    if model.attn_implementation is not None:
        options["attn_implementation"] = model.attn_implementation
    if recipe.quantization is not None:
        complain = complain_about(recipe, "quantization")
        options["quantization_config"] = quantization_config(recipe.quantization.arguments(), precision, complain)
    if _straight_to(precision.device):
        options["device_map"] = {"": precision.device}
    return options


def safetensors_option(base: str, *, only: bool) -> bool | None:
    """transformers' `use_safetensors`: True refuses pickles, False reads them, None takes what there is.

    A folder of pickles gets False, because None would start a conversion on the Hub in the background.
    """
    if only:
        return True
    return False if Path(base).is_dir() and describe_folder(base).weights == "pickle" else None


def quantization_config(fields: dict[str, Any], precision: Precision, complain: Complain) -> Any:
    """BitsAndBytesConfig; the 4-bit compute type is the run's unless the recipe names another."""
    from transformers import BitsAndBytesConfig

    with raised_upstream(complain, "quantization"):
        return BitsAndBytesConfig(**{"bnb_4bit_compute_dtype": precision.compute_dtype, **fields})


def _straight_to(device: torch.device) -> bool:
    """Whether weights are read straight onto the device: not where FSDP or DeepSpeed will shard them first."""
    sharded = any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"))
    return device.type in ("cuda", "xpu") and not sharded


def _random_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    dtype: torch.dtype,
    head: Head,
    extra: dict[str, Any],
) -> PreTrainedModel:
    complain = complain_about(recipe, "model.config")
    if recipe.quantization is not None:
        raise UserError(recipe.problem("quantization", "random weights are not worth quantising", "leave one out"))
    config = random_config(recipe, tokenizer)
    for name, value in extra.items():
        setattr(config, name, value)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": recipe.model.trust_remote_code}
    if recipe.model.attn_implementation is not None:
        options["attn_implementation"] = recipe.model.attn_implementation
    device = precision.device if _straight_to(precision.device) else contextlib.nullcontext()
    with raised_upstream(complain, config.model_type), device:
        return auto_class(head).from_config(config, **options)


def random_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The config of `init: random`: the recipe's fields, with vocabulary and special tokens from the tokenizer.

    Raises UserError for a field that the model type's config does not have, and for a value that it refuses.
    """
    from transformers import AutoConfig

    given = recipe.model.config
    complain = complain_about(recipe, "model.config")
    if isinstance(given, str):
        path = recipe.base_dir / given
        with raised_upstream(complain, str(path)):
            return AutoConfig.from_pretrained(str(path), trust_remote_code=recipe.model.trust_remote_code)
    assert given is not None, "the recipe has init: random and a config"
    fields = dict(given)
    kind = fields.pop("model_type")
    with raised_upstream(complain, kind):
        known = AutoConfig.for_model(kind)
    _refuse_unknown_fields(fields, known, complain)
    fields.setdefault("vocab_size", len(tokenizer))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    with raised_upstream(complain, kind):
        config = AutoConfig.for_model(kind, **fields)
    _refuse_impossible_shapes(config, complain)
    return config


def _refuse_impossible_shapes(config: PreTrainedConfig, complain: Complain) -> None:
    """Shapes that upstream's configs take and its models fail on, in the first step or at the last."""
    layers, heads = getattr(config, "num_hidden_layers", 1), getattr(config, "num_attention_heads", 1)
    shared = getattr(config, "num_key_value_heads", None) or heads
    for name, number in (
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
        ("num_key_value_heads", shared),
    ):
        if number < 1:
            raise UserError(complain(f"model.config.{name}", f"{number} is below 1", None))
    if heads % shared:
        message = f"{shared} does not divide {heads} attention heads"
        raise UserError(complain("model.config.num_key_value_heads", message, None))


def _refuse_unknown_fields(fields: dict[str, Any], known: PreTrainedConfig, complain: Complain) -> None:
    import difflib

    names = {*known.to_dict(), *vars(known), *known.attribute_map, "rope_theta", "num_labels"}
    problems = []
    for name in fields:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else None
            problems.append(complain(f"model.config.{name}", f"a {known.model_type} config has no such field", hint))
    if problems:
        raise UserError(problems)


# Vocabulary and special tokens


def _match_vocabulary(
    recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, notes: list[str]
) -> None:
    """Give every token of the tokenizer a row of the embeddings, where that row can be trained."""
    rows = base.get_input_embeddings().weight.shape[0]
    tokens = len(tokenizer)
    if rows >= tokens:
        return
    message = f"the tokenizer has {tokens} tokens, the model's embeddings only {rows} rows"
    model, adapter = recipe.model, recipe.adapter
    if model.init == "random":
        raise UserError(recipe.problem("model.config", message, "leave out vocab_size to take the tokenizer's"))
    if model.tokenizer_name_or_path is None:
        hint = "set model.tokenizer_name_or_path to the tokenizer the model was trained with"
        raise UserError(recipe.problem("model.model_name_or_path", message, hint))
    asked = {} if adapter is None else adapter.arguments()
    if adapter is not None and not asked.get("modules_to_save") and not asked.get("trainable_token_indices"):
        hint = "train them with adapter.modules_to_save: [embed_tokens, lm_head], or take the model's own tokenizer"
        raise UserError(
            recipe.problem("model.tokenizer_name_or_path", message + ", and an adapter leaves new rows untrained", hint)
        )
    base.resize_token_embeddings(tokens)
    base.name_or_path = ""  # no longer what lies there: an adapter's result must bring this base along
    notes.append(f"{message}: {tokens - rows} rows added")


def settle_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the model's configs agree with the tokenizer on pad, BOS and EOS.

    Generation stops at the tokenizer's EOS, at the template's stop token, and at whatever it stopped at before.
    """
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(model.config, name, getattr(tokenizer, name))
    generation = getattr(model, "generation_config", None)
    if generation is None or not model.can_generate():
        return
    before = generation.eos_token_id
    stops = stop_token_ids(tokenizer)
    stops += [number for number in ([before] if isinstance(before, int) else before or []) if number not in stops]
    generation.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    for name in ("pad_token_id", "bos_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(generation, name, getattr(tokenizer, name))


# The adapter


def _with_adapter(
    recipe: Recipe,
    base: PreTrainedModel,
    found: Start | None,
    head: Head,
    start: str | Path | Start | None,
) -> Any:
    field = start_field(recipe, start)
    old = found is not None and found.adapter is not None
    on_top_of = getattr(recipe.adapter, "on_top_of", None)
    if recipe.adapter is None:
        if old:
            assert found is not None
            return continue_adapter(base, found, complain_about(recipe, field), head)
        if recipe.quantization is not None:
            hint = "add an `adapter:` section"
            raise UserError(recipe.problem("quantization", "quantised weights cannot be trained themselves", hint))
        return base
    if old:
        assert found is not None
        if on_top_of is None:
            hint = "say adapter.on_top_of: merge or stack, or leave out `adapter:` to go on with the old one"
            message = "training starts from an adapter, and the recipe asks for another one"
            raise UserError(recipe.problem("adapter", message, hint))
        complain = complain_about(recipe, field)
        if on_top_of == "stack":
            refuse_unless_plain(recipe.adapter.arguments(), complain, "`adapter:`")
            base = stack_adapter(base, found, complain, head)
        elif recipe.quantization is not None:
            message = "merging into quantised weights would round the old adapter away"
            raise UserError(recipe.problem("adapter.on_top_of", message, "use stack, which is exact"))
        else:
            base = merge_adapter(base, found, complain, head)
    return new_adapter(recipe, base, head, None if found is None or old else found.base_revision)
