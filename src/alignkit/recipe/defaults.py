"""The one table of the defaults in which alignkit differs from upstream, with reasons; docs/defaults.md shows it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TRL = ("SFTConfig", "DPOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig", "PPOConfig", "KTOConfig")
TRAINING = ("TrainingArguments", *TRL)


@dataclass(frozen=True, slots=True)
class Default:
    """One differing default. With `value_for(values, upstream)` it depends on the section's other values."""

    section: str
    field: str
    classes: tuple[str, ...]
    shown: str
    reason: str
    value: Any = None
    value_for: Callable[[dict[str, Any], Any], Any] | None = None


def _checkpointing(values: dict[str, Any], _upstream: Any) -> bool:
    return bool(values.get("activation_checkpointing"))


def _sampling(values: dict[str, Any], upstream: Any) -> Any:
    return upstream if values.get("packing") else "group_by_length"


def _targets(values: dict[str, Any], upstream: Any) -> Any:
    return upstream if values.get("target_parameters") else "all-linear"


def _quant_type(values: dict[str, Any], upstream: Any) -> Any:
    return "nf4" if values.get("load_in_4bit") else upstream


def _double_quant(values: dict[str, Any], upstream: Any) -> Any:
    return True if values.get("load_in_4bit") else upstream


DIFFERING = (
    Default(
        section="training",
        field="gradient_checkpointing",
        classes=TRL,
        shown="`false`",
        reason="It costs about a third of the speed where memory is plenty; turn it on when memory asks for it.",
        value_for=_checkpointing,
    ),
    Default(
        section="training",
        field="logging_nan_inf_filter",
        classes=TRAINING,
        shown="`false`",
        reason="The filter hides the losses that alignkit stops at: the first that is not finite ends the run.",
        value=False,
    ),
    Default(
        section="training",
        field="train_sampling_strategy",
        classes=("TrainingArguments", "SFTConfig", "RewardConfig", "DPOConfig"),
        shown="`group_by_length` unless `packing` is on",
        reason="Examples of like length share a batch, so that little of it is padding.",
        value_for=_sampling,
    ),
    Default(
        section="training",
        field="num_generations_eval",
        classes=("GRPOConfig", "RLOOConfig"),
        shown="`1`",
        reason="Held-out prompts are answered once, greedily: upstream would sample `num_generations` answers to each.",
        value=1,
    ),
    Default(
        section="adapter",
        field="target_modules",
        classes=("LoraConfig",),
        shown="`all-linear` unless `target_parameters` is given",
        reason="Adapting every linear layer matches full fine-tuning far better than the query and value projections "
        "alone (Dettmers et al., QLoRA, 2023, section 4), and is known for every architecture.",
        value_for=_targets,
    ),
    Default(
        section="quantization",
        field="bnb_4bit_quant_type",
        classes=("BitsAndBytesConfig",),
        shown="`nf4` with `load_in_4bit`",
        reason="NF4 loses less than FP4 at the same size (QLoRA, 2023, table 2).",
        value_for=_quant_type,
    ),
    Default(
        section="quantization",
        field="bnb_4bit_use_double_quant",
        classes=("BitsAndBytesConfig",),
        shown="`true` with `load_in_4bit`",
        reason="It saves about 0.37 bits a parameter at no loss (QLoRA, 2023, section 3).",
        value_for=_double_quant,
    ),
)


@functools.cache
def differing(name: str) -> tuple[Default, ...]:
    """The differing defaults of an upstream class."""
    return tuple(default for default in DIFFERING if name in default.classes)


def as_markdown() -> str:
    """The table that docs/defaults.md holds. Upstream's own default is read from the snapshot."""
    from alignkit.recipe import upstream

    rows = ["| field | upstream | alignkit | why |", "|---|---|---|---|"]
    for default in DIFFERING:
        values = {str(upstream.fields(name)[default.field].default).lower() for name in default.classes}
        theirs = " or ".join(f"`{'null' if value == 'none' else value}`" for value in sorted(values))
        rows.append(f"| `{default.section}.{default.field}` | {theirs} | {default.shown} | {default.reason} |")
    return "\n".join(rows) + "\n"
