"""Several GPUs: what each of them holds. Modelled from the simulated step of one, not simulated.

| | weights | gradients | optimizer state | beside |
|---|---|---|---|---|
| ddp | whole | whole | whole | buckets as large as the gradients |
| zero2 | whole | 1/N | 1/N | one bucket |
| fsdp2, zero3 | 1/N | 1/N | 1/N | two layers and the embeddings gathered, gradients of a layer |
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignkit.errors import Problem, UserError
from alignkit.plan.simulate import PARTS, Phase, Timeline

KINDS = ("ddp", "zero2", "zero3", "fsdp2")
_WEIGHTS, _ADAPTER, _GRADIENTS, _OPTIMIZER, _TEMPORARIES = (
    PARTS.index(name) for name in ("weights", "adapter", "gradients", "optimizer", "temporaries")
)


def kind_of(name: str | None) -> str:
    """What an Accelerate config (a name or a file) does with a model. Raises UserError for one that is not known."""
    if name is None:
        return "ddp"
    word = name.lower().replace("deepspeed_", "").replace("-", "").replace("_", "").removesuffix(".yaml")
    if word in KINDS:
        return word
    if Path(name).is_file():
        return _of_file(Path(name))
    near = difflib.get_close_matches(word, KINDS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        Problem(f"there is no config {name!r}", field="--accelerate", hint=f"{hint}known: {', '.join(KINDS)}")
    )


def _of_file(path: Path) -> str:
    from ruamel.yaml import YAML

    config = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    if config.get("distributed_type") == "FSDP":
        return "fsdp2"
    if config.get("distributed_type") == "DEEPSPEED":
        stage = (config.get("deepspeed_config") or {}).get("zero_stage", 2)
        return {0: "ddp", 1: "zero2", 2: "zero2", 3: "zero3"}[int(stage)]
    return "ddp"


def shard(timeline: Timeline, kind: str, gpus: int, layers: int) -> Timeline:
    """The timeline of one of `gpus` GPUs."""
    if gpus == 1:
        return timeline
    whole = timeline.phases[0].parts[0]
    held = int(whole[_WEIGHTS] + whole[_ADAPTER])
    layer = timeline.layer_bytes or held // max(layers, 1)
    root = max(held - layer * layers, 0)
    gradients = max(int(phase.parts[:, _GRADIENTS].max()) for phase in timeline.phases)
    phases = []
    for phase in timeline.phases:
        parts = phase.parts.copy()
        stepping = phase.name in ("clipping", "optimizer")
        if kind == "ddp":
            parts[:, _TEMPORARIES] += gradients
        else:
            parts[:, [_GRADIENTS, _OPTIMIZER]] = -(-parts[:, [_GRADIENTS, _OPTIMIZER]] // gpus)
            parts[:, _TEMPORARIES] += 0 if stepping else gradients // max(layers, 1)
        if kind in ("zero3", "fsdp2"):
            parts[:, [_WEIGHTS, _ADAPTER]] = -(-parts[:, [_WEIGHTS, _ADAPTER]] // gpus)
            parts[:, _TEMPORARIES] += 0 if stepping else 2 * layer + root
        phases.append(Phase(phase.name, phase.names, np.asarray(parts)))
    return replace(timeline, phases=phases)
