"""What does not go together in a task's `generation:`; asked of a recipe when it is read, and of a quick task later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")
BEAMS_ONLY = ("length_penalty", "early_stopping")


IN_VLLM = (
    *("do_sample", "num_beams", "num_return_sequences", "max_new_tokens", "eos_token_id", "temperature", "top_p"),
    *("top_k", "min_p", "repetition_penalty", "min_new_tokens", "stop_strings"),
)
"""The fields that have a counterpart in vLLM's SamplingParams."""


def not_in_vllm(given: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, what is wrong, the fix) for each field of `given` that vLLM can't honour."""
    hint = "leave it out, or leave use_vllm out"
    if (given.get("num_beams") or 1) > 1:
        yield "num_beams", "vLLM's engine samples or is greedy; it does not search with beams", hint
    for name, value in given.items():
        if name not in IN_VLLM and value is not None:
            yield name, "has no counterpart in vLLM's SamplingParams", hint


def contradictions(given: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, what is wrong, the fix) for each field of `given` that would do nothing, or not what it seems to.

    `given` is what the user wrote; alignkit generates greedily unless told otherwise.
    """
    sampled, beams = bool(given.get("do_sample")), given.get("num_beams") or 1
    if given.get("max_length") is not None:
        yield "max_length", "counts the prompt too, and prompts differ", "say max_new_tokens"
    for name in SAMPLING_ONLY:
        if given.get(name) is not None and not sampled:
            yield name, "does nothing without sampling", "add do_sample: true"
    for name in BEAMS_ONLY:
        if given.get(name) is not None and beams == 1:
            yield name, "does nothing without beam search", "set num_beams above 1"
    answers = given.get("num_return_sequences") or 1
    if answers > 1 and not sampled and answers > beams:
        yield "num_return_sequences", "greedy search has one answer only", "add do_sample: true"
