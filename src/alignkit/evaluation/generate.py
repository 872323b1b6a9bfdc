"""Text from a model: prompts as token ids in, completions out, batched by length and seeded by batch.

`Generator` is the seam: whatever turns a batch of prompts into completions (transformers here, vLLM in `vllm.py`) is
driven, stored and scored in the same way.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from transformers import GenerationConfig

from alignkit.errors import Problem, UserError
from alignkit.evaluation.likelihood import input_device
from alignkit.models import stop_token_ids
from alignkit.recipe.generation import contradictions

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Completion:
    """What the model wrote: text without special tokens, its length in tokens, and why it ended."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


class Generator(Protocol):
    """Anything that completes prompts."""

    def complete(
        self, prompts: Sequence[Sequence[int]], settings: Settings, *, max_new_tokens: int, seed: int
    ) -> list[list[Completion]]:
        """`settings.samples` completions of each prompt, in order. `max_new_tokens` may be below the settings'."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to generate: GenerationConfig's fields, settled; nothing is taken from the model's own generation config."""

    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """The task's `generation:` over greedy search of at most 256 tokens.

        Raises:
            UserError: a field that would do nothing (`temperature` without `do_sample`), or that upstream refuses.
        """
        fields = {
            "do_sample": False,
            "num_beams": 1,
            "num_return_sequences": 1,
            "max_new_tokens": MAX_NEW_TOKENS,
            **given,
        }
        fields.pop("max_length", None)
        if found := [_refused(*each) for each in contradictions(given)]:
            raise UserError(found)
        try:
            GenerationConfig(**fields).validate()
        except (ValueError, TypeError) as error:
            raise UserError(Problem(" ".join(str(error).split()), field="generation")) from None
        return cls({name: value for name, value in fields.items() if value is not None})

    @property
    def samples(self) -> int:
        return int(self.fields["num_return_sequences"])

    @property
    def max_new_tokens(self) -> int:
        return int(self.fields["max_new_tokens"])

    @property
    def is_random(self) -> bool:
        return bool(self.fields["do_sample"])

    def signature(self, seed: int) -> str:
        """`gen:greedy|max_new_tokens:256`: all that shapes the text."""
        fields = dict(self.fields)
        beams = fields.pop("num_beams")
        sampled = fields.pop("do_sample")
        name = "sample" if sampled else "beam" if beams > 1 else "greedy"
        parts = [f"gen:{name}", f"max_new_tokens:{fields.pop('max_new_tokens')}"]
        if beams > 1:
            parts.append(f"beams:{beams}")
        if (samples := fields.pop("num_return_sequences")) > 1:
            parts.append(f"samples:{samples}")
        if sampled:
            # Upstream's defaults shape the samples too, so they are written out.
            fields = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, **fields}
            parts.append(f"seed:{seed}")
        return "|".join([*parts, *(f"{name}:{value}" for name, value in sorted(fields.items()))])


def _refused(name: str, what: str, hint: str) -> Problem:
    return Problem(f"{name} {what}", field=f"generation.{name}", hint=hint)


class TransformersGenerator:
    """`model.generate` on left-padded batches."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def stop_ids(self, settings: Settings) -> list[int]:
        """Tokens that end an answer: the task's own, else the model's and the tokenizer's and the chat template's."""
        given = settings.fields.get("eos_token_id")
        if given is None:
            of_model = getattr(self.model.generation_config, "eos_token_id", None)
            ids = [*stop_token_ids(self.tokenizer), *(of_model if isinstance(of_model, list) else [of_model])]
        else:
            ids = given if isinstance(given, list) else [given]
        return list(dict.fromkeys(int(number) for number in ids if number is not None))

    @torch.inference_mode()
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        settings: Settings,
        *,
        max_new_tokens: int,
        seed: int,
        streamer: Any = None,
    ) -> list[list[Completion]]:
        """See `Generator`; `streamer` is transformers', for one prompt and one sample."""
        device = input_device(self.model)
        longest = max(map(len, prompts))
        stops = self.stop_ids(settings)
        pad = self.tokenizer.pad_token_id
        pad = pad if pad is not None else stops[0] if stops else 0
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        fields = {"use_cache": True, **settings.fields, "max_new_tokens": max_new_tokens}
        config = GenerationConfig(**{**fields, "eos_token_id": stops or None, "pad_token_id": pad})
        extra = {"tokenizer": self.tokenizer} if settings.fields.get("stop_strings") else {}
        with _own_generation_config(self.model), _seeded(seed, device):
            # position_ids follow from the mask: generate() counts from each row's first real token.
            out = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer, **extra
            )
        rows = out[:, longest:].tolist()
        done = [completion_of(row, stops, pad, settings, self.tokenizer) for row in rows]
        size = settings.samples
        return [done[start : start + size] for start in range(0, len(done), size)]


def completion_of(
    row: list[int], stops: Sequence[int], pad: int | None, settings: Settings, tokenizer: Any
) -> Completion:
    """The new tokens of one sequence, cut at the first stop."""
    end = next((place for place, number in enumerate(row) if number in stops), None)
    kept = row if end is None else row[:end]
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if end is not None:
        return Completion(text, end + 1, "stop")
    strings = settings.fields.get("stop_strings") or []
    if any(string in text for string in ([strings] if isinstance(strings, str) else strings)):
        while kept and kept[-1] == pad:
            kept = kept[:-1]
        return Completion(text, len(kept), "stop")
    return Completion(text, len(kept), "length")


@contextlib.contextmanager
def _own_generation_config(model: Any) -> Iterator[None]:
    """generate() fills what we leave open from the model's generation config; with it, greedy search would sample."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = plain.generation_config
    plain.generation_config = GenerationConfig()
    try:
        yield
    finally:
        plain.generation_config = kept


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` inside; outside, the stream goes on as if nothing had happened."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def batches_of(lengths: Sequence[int], batch_size: int, max_new_tokens: int, context: int | None) -> list[Batch]:
    """Places of prompts in batches: longest first, so that a batch that does not fit shows at once.

    A prompt that leaves less than `max_new_tokens` of the model's context is completed up to the context's end, in a
    batch with those that have as much room. Prompts that leave no room are in no batch.
    """
    room = [max_new_tokens if context is None else min(max_new_tokens, context - length) for length in lengths]
    order = sorted((i for i in range(len(lengths)) if room[i] > 0), key=lambda i: (-room[i], -lengths[i], i))
    found: list[Batch] = []
    for place in order:
        last = found[-1] if found else None
        if last is not None and last.max_new_tokens == room[place] and len(last.places) < batch_size:
            last.places.append(place)
        else:
            found.append(Batch([place], room[place]))
    return found


@dataclass(frozen=True)
class Batch:
    """Prompts (by place) that are completed together, and how far."""

    places: list[int]
    max_new_tokens: int


def rows_for(batch_size: int, settings: Settings) -> int:
    """Prompts in a batch: `batch_size` counts sequences, and each prompt has several with samples or beams."""
    return max(1, math.floor(batch_size / max(settings.samples, int(settings.fields["num_beams"]))))
