"""A rehearsal: the very recipe, end to end, on a stand-in for its model and a slice of its data, in about a minute.

What stays: the model's architecture (shrunk, random), its tokenizer and chat template, the recipe's data, layouts,
masking, adapter, quantization, losses, rewards, evaluation and report. What a rehearsal cannot tell is said at its end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig

from alignkit import launch, methods
from alignkit.errors import Problem
from alignkit.examples import GENERATORS
from alignkit.models.start import Start, resolve_start
from alignkit.models.upstream import raised_upstream
from alignkit.recipe import Recipe, load_mapping

if TYPE_CHECKING:
    from alignkit.models.upstream import Complain

SUFFIX = "-rehearsal"
ROWS, TASK_ROWS, STEPS, LENGTH, NEW_TOKENS = 48, 4, 4, 256, 8
HEAD_SIZE, LAYERS = 16, 2
# Sizes of a stand-in, under the names that the architectures' configs give them. A name that a config lacks is skipped.
SIZES = {
    "intermediate_size": 96,
    "ffn_dim": 96,
    "d_ff": 96,
    "n_inner": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "global_attn_every_n_layers": 1,
    "sliding_window": 64,
}
LAYER_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEAD_NAMES = ("num_attention_heads", "n_head", "n_heads")
HIDDEN_NAMES = ("hidden_size", "n_embd", "dim", "d_model")
NOT_TOLD = (
    "whether the real weights load and fit: `alignkit plan` tells the memory",
    "what the real model learns, and how long a step takes",
    "kernels of GPUs: flash attention, fused optimizers, bfloat16 and float16",
    "trackers and push_to_hub, which were left out",
)


def rehearsed(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe that is run instead, and what it cannot tell, a line each. Stand-ins are written to its folder.

    Raises:
        UserError: a model whose config or tokenizer is not at hand, or that can't be shrunk.
    """
    values = copy.deepcopy(recipe.resolved())
    output = Path(f"{recipe.output_dir}{SUFFIX}")
    folder = output.with_name(f"{output.name}-models")
    notes = list(NOT_TOLD)
    for holder, key, field in _models(values):
        holder[key] = str(_stand_in(recipe, field, str(holder[key]), folder))
        if field == "model.model_name_or_path":
            values["model"]["revision"] = None
    for holder in _from_recipes(values):
        other = methods.load_recipe(holder.pop("from_recipe"))
        name = "model_name_or_path" if holder is values["model"] else "model"
        holder[name] = str(rehearse(other)[0].model_dir)
    _shorten_data(values)
    _shorten_training(values["training"])
    for task in values["evaluation"]:
        task["max_rows"] = min(task.get("max_rows") or TASK_ROWS, TASK_ROWS)
        for source in task.get("data") or []:
            _slice(source)
        task["generation"]["max_new_tokens"] = min(task["generation"].get("max_new_tokens") or NEW_TOKENS, NEW_TOKENS)
    values |= {"output_dir": str(output)}
    values["model"]["dtype"] = "float32" if recipe.quantization is None else values["model"]["dtype"]
    if "flash" in str(values["model"].get("attn_implementation")):
        values["model"]["attn_implementation"] = None
    return load_mapping(values, methods.recipe_classes(), base_dir=recipe.base_dir), notes


def rehearse(recipe: Recipe, *, accelerate: str | None = None) -> tuple[Any, list[str]]:
    """Run the rehearsal; its run, and what it could not tell."""
    changed, notes = rehearsed(recipe)
    return launch.train(changed, overwrite=True, accelerate=accelerate), notes


# ---------------------------------------------------------------------- models
def _models(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(mapping, key, field) of everything in the recipe that names a model."""
    if values["model"].get("model_name_or_path"):
        yield values["model"], "model_name_or_path", "model.model_name_or_path"
    if values.get("reference"):
        yield values, "reference", "reference"
    for index, reward in enumerate(values.get("rewards") or []):
        if reward.get("model"):
            yield reward, "model", f"rewards.{index}.model"
    critic = values.get("critic") or {}
    if critic.get("init") not in (None, "policy", "reward"):
        yield critic, "init", "critic.init"


def _from_recipes(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything in the recipe that names another recipe whose result it takes."""
    for holder in (values["model"], *(values.get("rewards") or [])):
        if holder.get("from_recipe"):
            yield holder


def _stand_in(recipe: Recipe, field: str, source: str, folder: Path) -> Path:
    """A small random model of the architecture that `source` has, with its tokenizer, and its adapter's config."""

    def complain(_: str | None, message: str, hint: str | None = None) -> Problem:
        return recipe.problem(field, message, hint or "a rehearsal needs the model's config and tokenizer at hand")

    revision = recipe.model.revision if field == "model.model_name_or_path" else None
    start = resolve_start(source, revision, complain)
    place = folder / "".join(c if c.isalnum() or c in "-_." else "-" for c in source).strip("-")[-80:]
    trusted = {"trust_remote_code": recipe.model.trust_remote_code}
    with raised_upstream(complain, start.base):
        config = AutoConfig.from_pretrained(start.base, revision=start.base_revision, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(start.tokenizer, revision=start.tokenizer_revision, **trusted)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        if isinstance(part, PreTrainedConfig):
            shrink(part)
    with torch.random.fork_rng(devices=[]), raised_upstream(complain, f"{config.model_type}, shrunk,"):
        torch.manual_seed(0)
        model = _built(config, trusted)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place if start.adapter is None else _with_adapter(place, start, complain)


def _built(config: PreTrainedConfig, trusted: dict[str, Any]) -> Any:
    known = getattr(transformers, str(next(iter(config.architectures or []), "")), None)
    return AutoModel.from_config(config, **trusted) if known is None else known(config)


def _with_adapter(base: Path, start: Start, complain: Complain) -> Path:
    from peft import PeftConfig, get_peft_model

    assert start.adapter is not None
    place = base.with_name(f"{base.name}-adapter")
    with raised_upstream(complain, start.adapter):
        config = PeftConfig.from_pretrained(start.adapter, revision=start.adapter_revision)
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        if config.task_type == "SEQ_CLS":
            model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        config.inference_mode, config.revision = False, None
        adapted: Any = get_peft_model(model, config)
    adapted.save_pretrained(place)
    AutoTokenizer.from_pretrained(base).save_pretrained(place)
    return place


def shrink(config: PreTrainedConfig) -> None:
    """Make the config one of a tiny model of the same architecture: the vocabulary and every flag stay."""
    names = {**vars(config), **dict.fromkeys(config.attribute_map)}

    def first(candidates: tuple[str, ...]) -> str | None:
        return next((name for name in candidates if name in names), None)

    heads_name, hidden_name, layers_name = first(HEAD_NAMES), first(HIDDEN_NAMES), first(LAYER_NAMES)
    if layers_name is not None:
        for name, value in list(vars(config).items()):  # a type, a window, …, for each layer
            if isinstance(value, list) and len(value) == getattr(config, layers_name):
                setattr(config, name, _some_of(value))
        setattr(config, layers_name, LAYERS)
    if heads_name is not None and hidden_name is not None:
        heads = getattr(config, heads_name)
        groups = getattr(config, "num_key_value_heads", None) or heads
        shared = min(heads // groups, 2)
        kept = min(groups, 2)
        setattr(config, heads_name, kept * shared)
        if "num_key_value_heads" in names:
            config.num_key_value_heads = kept
        if getattr(config, "head_dim", None):
            config.head_dim = HEAD_SIZE
        setattr(config, hidden_name, kept * shared * HEAD_SIZE)
        if getattr(config, "embedding_size", None):
            config.embedding_size = kept * shared * HEAD_SIZE
    for name, size in SIZES.items():
        if isinstance(getattr(config, name, None), int) and not isinstance(getattr(config, name), bool):
            setattr(config, name, min(getattr(config, name), size))


def _some_of(of_layers: list[Any]) -> list[Any]:
    """The kinds of layers that a stand-in has: the first, and one that differs from it."""
    return [of_layers[0], next((value for value in of_layers if value != of_layers[0]), of_layers[0])][:LAYERS]


# ---------------------------------------------------------------------- data, training, evaluation
def _shorten_data(values: dict[str, Any]) -> None:
    data = values.get("data")
    if data is None:
        return
    for part in ("train", "eval"):
        for source in data.get(part) or []:
            _slice(source)


def _slice(source: dict[str, Any]) -> None:
    source["max_rows"] = min(source.get("max_rows") or ROWS, ROWS)
    if source.get("generate") in GENERATORS and source["options"].get("rows", ROWS) > ROWS:
        source["options"]["rows"] = ROWS


def _shorten_training(training: dict[str, Any]) -> None:
    """Few small steps, with every event of a run in them: logging, evaluation, a checkpoint."""
    rows = 2
    generations = training.get("num_generations")
    if generations is not None:
        generations = training["num_generations"] = min(generations, 2)
        rows = max(rows, 2 * generations)
    smaller = {
        "max_steps": STEPS,
        "global_batch_size": 2 * rows if training.get("global_batch_size") else None,
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": max(2, generations or 0),
        "gradient_accumulation_steps": 1,
        "warmup_steps": min(training.get("warmup_steps") or 0, 1),
        "logging_steps": 1,
        "report_to": "none",
        "push_to_hub": False,
        "dataloader_num_workers": 0,
        "dataloader_prefetch_factor": None,
        "generation_batch_size": None,
        "steps_per_generation": training.get("steps_per_generation") and min(training["steps_per_generation"], 2),
        "use_vllm": False,
        "save_steps": 2,
        "eval_steps": 2,
        "torch_compile": False,
        "use_liger_kernel": False,
    }
    for name in ("max_length", "max_prompt_length", "max_completion_length"):
        most = 4 * NEW_TOKENS if name == "max_completion_length" else LENGTH
        smaller[name] = min(training.get(name) or most, most)
    training |= {name: value for name, value in smaller.items() if name in training}
    for name in ("eval_strategy", "save_strategy"):
        if training.get(name) not in (None, "no"):
            training[name] = "steps"
    if str(training.get("optim", "")).startswith(("paged_", "adamw_8bit", "adamw_torch_fused")):
        training["optim"] = "adamw_torch"
