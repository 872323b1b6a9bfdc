"""vLLM as the generator of an evaluation: GenerationConfig's fields as its SamplingParams, adapters as LoRA requests.

It reads the model from its folder, beside the one in memory: by default it takes nine tenths of the GPU memory that is
free. Names are those of vLLM's documentation (SamplingParams, LLM, LoRARequest); none of this has been run on a GPU.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alignkit.errors import Problem, UserError
from alignkit.evaluation.generate import Completion, Settings, completion_of
from alignkit.model_folders import describe_folder

ROWS = 512
"""Sequences handed over together: vLLM makes its own batches, and what is done is kept after each of these."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that `max_lora_rank` may have


class VllmGenerator:
    """See `generate.Generator`.

    Args:
        place: the folder, adapter folder or Hub id of the model under evaluation.
        stops: tokens that end an answer.
        dtype: vLLM's word for the number format.
        options: further arguments of `vllm.LLM`.
    """

    def __init__(
        self, place: str | None, tokenizer: Any, stops: Sequence[int], dtype: str, options: Mapping[str, Any]
    ) -> None:
        if place is None:
            message = "vLLM reads a model from its folder, and this one (random weights) has none"
            raise UserError(Problem(message, field="use_vllm", hint="say baseline: false, or leave use_vllm out"))
        self.place, self.tokenizer, self.stops = place, tokenizer, list(stops)
        self.dtype, self.options = dtype, options

    @cached_property
    def _engine(self) -> tuple[Any, Any]:
        """The engine, and the LoRA request of an adapter; loaded when the first prompt needs it."""
        from vllm import LLM

        arguments, adapter = engine_arguments(self.place)
        arguments = {"dtype": self.dtype, **_memory(), **arguments, **self.options}
        lora = None
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            lora = LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=adapter)
        return LLM(**arguments), lora

    def complete(
        self, prompts: Sequence[Sequence[int]], settings: Settings, *, max_new_tokens: int, seed: int
    ) -> list[list[Completion]]:
        from vllm import SamplingParams

        engine, lora = self._engine
        each = [
            SamplingParams(**sampling_arguments(settings, self.stops, max_new_tokens, _seed_of(seed, place)))
            for place in range(len(prompts))
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        done = engine.generate(asked, each, use_tqdm=False, lora_request=lora)
        return [
            [completion_of(list(one.token_ids), self.stops, None, settings, self.tokenizer) for one in answer.outputs]
            for answer in done
        ]


def sampling_arguments(settings: Settings, stops: Sequence[int], max_new_tokens: int, seed: int) -> dict[str, Any]:
    """SamplingParams' arguments for `settings`, which a recipe's rules have found to have a counterpart each."""
    fields = settings.fields
    found: dict[str, Any] = {
        "n": settings.samples,
        "max_tokens": max_new_tokens,
        # The stops are complete: those that vLLM would read from the model's own files are left aside.
        "stop_token_ids": list(stops),
        "ignore_eos": True,
        "temperature": 0.0,
    }
    if settings.is_random:
        # Upstream's defaults where nothing is said, as the signature tells; transformers' 0 or None is "all tokens".
        found |= {"temperature": fields.get("temperature", 1.0), "top_p": fields.get("top_p", 1.0), "seed": seed}
        found |= {"top_k": fields.get("top_k", 50) or 0, "min_p": fields.get("min_p", 0.0)}
    for ours, theirs in (("repetition_penalty", "repetition_penalty"), ("min_new_tokens", "min_tokens")):
        if ours in fields:
            found[theirs] = fields[ours]
    if strings := fields.get("stop_strings"):
        found |= {"stop": [strings] if isinstance(strings, str) else list(strings), "include_stop_str_in_output": True}
    return found


def engine_arguments(place: str) -> tuple[dict[str, Any], str | None]:
    """LLM's arguments for the model at `place`, and the folder of its adapter, if it is one.

    Raises:
        UserError: the adapter is of a kind that vLLM does not load.
    """
    plain: dict[str, Any] = {"model": place, "generation_config": "vllm"}
    if not Path(place).is_dir():
        return plain, None
    folder = describe_folder(place)
    if folder.kind == "model":
        return {**plain, "model": str(folder.path)}, None
    config = json.loads((folder.path / "adapter_config.json").read_text(encoding="utf-8"))
    kept = next((name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if config.get(name)), None)
    if config.get("peft_type") != "LORA" or kept:
        what = f"{config.get('peft_type')} with {kept}" if kept else str(config.get("peft_type"))
        hint = "merge it first (alignkit merge), or leave use_vllm out"
        raise UserError(Problem(f"vLLM loads plain LoRA adapters, and this one is {what}", field="use_vllm", hint=hint))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    fitting = next((one for one in LORA_RANKS if one >= rank), rank)
    found = {**plain, "model": str(folder.base), "enable_lora": True, "max_lora_rank": fitting}
    return {**found, **({"tokenizer": str(folder.path)} if folder.tokenizer else {})}, str(folder.path)


def _memory() -> dict[str, float]:
    """The share of the GPU that vLLM may take, beside the model that is there already."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": round(0.9 * free / total, 2)}


def _seed_of(seed: int, place: int) -> int:
    """Each prompt its own: with one seed, all would draw the same numbers."""
    return zlib.crc32(f"{seed}:{place}".encode())
