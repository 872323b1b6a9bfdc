"""Sampling many completions of few prompts, faster than `generate`, for models that are whole in this process.

Three things that `generate` does not do: each distinct prompt is read once, and its cache shared out to its group; rows
that have ended are taken out of the batch; and nothing is prepared anew for a call or checked at each token. What is
drawn has the same distribution: the same warpers, in the same order.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

DROPPED_AT = 0.125
"""Ended rows are taken out when they are this share of the batch: doing so copies the cache."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; None and neutral values switch a warper off. `greedy` takes the likeliest."""

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    greedy: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Sampling:
        """From the keyword arguments that TRL gives GenerationConfig."""
        stops = fields["eos_token_id"]
        return cls(
            max_new_tokens=fields["max_new_tokens"],
            eos_token_ids=tuple(stops) if isinstance(stops, list) else (stops,),
            pad_token_id=fields["pad_token_id"],
            temperature=fields.get("temperature", 1.0),
            top_p=fields.get("top_p", 1.0),
            top_k=fields.get("top_k") or 0,
            min_p=fields.get("min_p"),
            repetition_penalty=fields.get("repetition_penalty", 1.0),
            greedy=not fields["do_sample"],
        )

    def warpers(self) -> LogitsProcessorList:
        """As `generate` orders them."""
        found: list[Any] = []
        if self.repetition_penalty != 1.0:
            found.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.greedy:
            return LogitsProcessorList(found)
        if self.temperature != 1.0:
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            found.append(MinPLogitsWarper(self.min_p))
        return LogitsProcessorList(found)


ATTENDING = ("full_attention", "sliding_attention")


def can_sample(model: Any) -> bool:
    """Whether the model keeps what it has read in a DynamicCache of plain layers, and says where a token stands."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = plain.config.get_text_config(decoder=True)
    layers = getattr(config, "layer_types", None) or ATTENDING
    known = inspect.signature(type(plain).forward).parameters
    takes = all(name in known for name in ("position_ids", "past_key_values", "logits_to_keep"))
    return takes and not plain.config.is_encoder_decoder and all(layer in ATTENDING for layer in layers)


@torch.no_grad()
def sample(model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """A completion of each prompt, its stop token included. Equal prompts that follow each other share their reading.

    Args:
        model: in evaluation mode; its cache must be transformers' DynamicCache (see `can_sample`).
    """
    device = next(model.parameters()).device
    firsts = [place for place, ids in enumerate(prompts) if place == 0 or list(ids) != list(prompts[place - 1])]
    counts = [end - start for start, end in zip(firsts, [*firsts[1:], len(prompts)], strict=True)]
    ids, mask = _left_padded([prompts[place] for place in firsts], sampling.pad_token_id, device)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    position = (mask.cumsum(1) - 1).clamp(min=0)
    logits = _step(model, ids, mask, position, cache)
    shared = torch.repeat_interleave(torch.arange(len(firsts)), torch.tensor(counts)).to(device)
    cache.batch_select_indices(shared)
    state = _Rows(ids[shared], mask[shared], torch.arange(len(prompts), device=device))
    return _drawn(model, logits[shared], state, cache, sampling, len(prompts))


@dataclass
class _Rows:
    """The rows still in the batch: their tokens, (B, T) each, and which prompt each one answers."""

    ids: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor

    def keep(self, rows: torch.Tensor) -> None:
        self.ids, self.mask, self.places = self.ids[rows], self.mask[rows], self.places[rows]


def _drawn(
    model: Any, logits: torch.Tensor, rows: _Rows, cache: Any, sampling: Sampling, number: int
) -> list[list[int]]:
    device, start = logits.device, rows.ids.shape[1]
    stops = torch.tensor(sampling.eos_token_ids, device=device)
    warp = sampling.warpers()
    made = torch.full((number, sampling.max_new_tokens), -1, dtype=torch.long, device=device)
    ended = torch.zeros(len(rows.places), dtype=torch.bool, device=device)
    for place in range(sampling.max_new_tokens):
        scores = warp(rows.ids, logits.float())
        token = scores.argmax(-1) if sampling.greedy else torch.multinomial(scores.softmax(-1), 1)[:, 0]
        made[rows.places[~ended], place] = token[~ended]
        ended = ended | torch.isin(token, stops)
        done = int(ended.sum())
        if done == len(ended) or place + 1 == sampling.max_new_tokens:
            break
        rows.ids = torch.cat([rows.ids, token[:, None]], 1)
        rows.mask = torch.cat([rows.mask, torch.ones_like(token)[:, None]], 1)
        if done > DROPPED_AT * len(ended):
            left = (~ended).nonzero()[:, 0]
            rows.keep(left)
            cache.batch_select_indices(left)
            ended = ended[left]
        position = rows.mask.sum(1, keepdim=True) - 1
        logits = _step(model, rows.ids[:, -1:], rows.mask, position, cache)
    assert rows.ids.shape[1] <= start + sampling.max_new_tokens
    return [[token for token in row if token >= 0] for row in made.tolist()]


def _step(model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: Any) -> torch.Tensor:
    """Logits of the last token, (B, V); the cache is extended."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
