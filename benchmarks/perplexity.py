"""WikiText-2 test under stories260K: alignkit's perplexity against the sliding-window loop of transformers' guide.

    python benchmarks/perplexity.py [--stride 256] [--tokens 100000] [--rounds 3]

The loop is the one of "Perplexity of fixed-length models" in transformers' documentation: one window at a time, logits
at every position, the loss averaged by the model. It weighs each window by one token less than the loss is over, so
its figure is printed both as it computes it and with the right weights; alignkit's must equal the second to 1e-5. Both
score the whole text as one document without a first token, as the guide does. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import SHARED
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.evaluation.likelihood import Document, likelihoods


def guide(model: Any, ids: torch.Tensor, max_length: int, stride: int) -> tuple[float, float]:
    """Perplexity as the guide's loop gives it, and with each window weighed by the tokens its loss is over."""
    nats, tokens, right_nats, right_tokens, before = 0.0, 0, 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + max_length, ids.size(1))
        target = end - before
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, :-target] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss.item()
        counted = int((labels != -100).sum()) - 1
        scored = int((labels[:, 1:] != -100).sum())
        nats, tokens = nats + loss * counted, tokens + counted
        right_nats, right_tokens = right_nats + loss * scored, right_tokens + scored
        before = end
        if end == ids.size(1):
            break
    return math.exp(nats / tokens), math.exp(right_nats / right_tokens)


def ours(model: Any, ids: torch.Tensor, max_length: int, stride: int) -> float:
    document = Document("wikitext2", ids[0].numpy(), np.arange(ids.size(1)) > 0)
    found = likelihoods(model, [document], max_length=max_length, stride=stride)[0]
    return math.exp(found.nats / found.tokens)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument(
        "--tokens", type=int, default=None, help="only the first so many tokens (default: all, minutes)"
    )
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(SHARED / "stories260K").eval()
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "stories260K")
    text = (SHARED / "lm_text" / "wikitext2_test.txt").read_text(encoding="utf-8")
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][:, : given.tokens]
    length = model.config.max_position_embeddings
    guide(model, ids[:, : 4 * length], length, given.stride)
    ours(model, ids[:, : 4 * length], length, given.stride)
    print(f"{ids.size(1):,} tokens, windows of {length}, stride {given.stride}, {torch.get_num_threads()} threads")
    ratios = []
    for _ in range(given.rounds):
        (loop, weighed), loop_seconds = timed(guide, model, ids, length, given.stride)
        figure, seconds = timed(ours, model, ids, length, given.stride)
        ratios.append(loop_seconds / seconds)
        print(f"guide    {loop:.5f} ({weighed:.5f} by its own tokens)  {loop_seconds:.1f} s")
        print(f"alignkit {figure:.5f}  {seconds:.1f} s  {ratios[-1]:.2f} times as fast", flush=True)
        assert math.isclose(figure, weighed, rel_tol=1e-5), "the same figure"
    print(f"median: {statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
