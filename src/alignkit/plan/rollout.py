"""The rollout of online methods: prompts read, completions drawn with a growing cache, and scored.

`generate` decides on what it has drawn, which fake tensors lack. Here its first pass (the prompts) and its last step
(the longest cache) are run, which is where its memory is highest; everything after it is the trainer's own code.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from alignkit.errors import UserError
from alignkit.plan.follow import Follow
from alignkit.plan.repeat import few_chunks
from alignkit.plan.rows import stand_in

if TYPE_CHECKING:
    from alignkit.rewards.mixture import Mixture

PREFILL, DECODE, SCORING = "prefill", "decode", "scoring"


@contextlib.contextmanager
def nothing_loaded(policy: Any) -> Iterator[None]:
    """While a trainer is built: reward functions are neither loaded nor run, and reward models are built by shape.

    The reference that TRL would load from the policy's folder is a copy of the policy.
    """
    from trl.trainer import grpo_trainer, rloo_trainer

    from alignkit.models.tokenizer import load_tokenizer
    from alignkit.rewards import build
    from alignkit.rewards.call import Answer, Call

    original = build._scorer

    def scorer(recipe: Any, index: int, section: Any, *others: Any) -> Any:
        if section.kind in ("model", "from_recipe"):
            return original(recipe, index, section, *others)
        return lambda call: Answer([0.0] * len(call)) if isinstance(call, Call) else None

    def tokenizer(*asked: Any) -> Any:
        try:
            return load_tokenizer(*asked)
        except UserError:  # a reward model's, which is not at hand
            return stand_in(policy.config)

    def reference(*_args: Any, **_kwargs: Any) -> Any:
        return copy.deepcopy(policy).requires_grad_(False)

    with (
        patch.object(build, "_scorer", scorer),
        patch("alignkit.models.results.load_tokenizer", tokenizer),
        patch.object(grpo_trainer, "create_model_from_path", reference),
        patch.object(rloo_trainer, "create_model_from_path", reference),
    ):
        yield


def reward_models(trainer: Any) -> list[Any]:
    """The models among an online trainer's rewards."""
    rewards: Mixture | None = getattr(trainer, "rewards", None)
    if rewards is None:
        return []
    return [reward.scorer.model for reward in rewards.rewards if hasattr(reward.scorer, "model")]


@contextlib.contextmanager
def simulated(trainer: Any, follow: Follow, mark: Callable[[str], None], after: Callable[[], None]) -> Iterator[None]:
    """The trainer's rollout, with completions of the greatest length; `after` is called once it is scored."""
    own = trainer._generate_and_score_completions

    def generate(prompt_ids: list[list[int]], *_: Any) -> tuple[list[list[int]], None]:
        return _completions(trainer, follow, mark, prompt_ids), None

    def generate_and_score(inputs: Any) -> Any:
        made = own(inputs)
        after()
        mark("forward")
        return made

    def advantages(rewards: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros_like(rewards)  # a loop over tokens that needs nothing but its result

    with (
        patch.object(trainer, "_generate_single_turn", generate),
        patch.object(trainer, "_generate_and_score_completions", generate_and_score),
        patch.object(trainer.rewards, "start", lambda call: _Scores(trainer, call, follow)),
        patch("alignkit.trainers.ppo.rollout.generalized_advantages", advantages),
        few_chunks(trainer, follow),
    ):
        yield


class _Scores:
    """What the rewards say: zero for all; reward models run for the memory that it takes."""

    def __init__(self, trainer: Any, call: Any, follow: Follow) -> None:
        self.trainer, self.call, self.follow = trainer, call, follow

    def wait(self) -> list[Any]:
        from alignkit.rewards.call import Answer
        from alignkit.rewards.mixture import Scored

        count = len(self.call)
        for reward in self.trainer.rewards.rewards:
            if hasattr(reward.scorer, "model"):
                self._run(reward.scorer)
        nothing: list[list[float] | None] = [None] * count
        return [Scored([0.0] * count, nothing, 0, Answer([0.0] * count)) for _ in self.trainer.rewards.rewards]

    @torch.no_grad()
    def _run(self, scorer: Any) -> None:
        prompts = self.trainer._prompt_ids
        width = max(len(prompt) + len(said) for prompt, said in zip(prompts, self.call.completion_ids, strict=True))
        ids = torch.ones(min(scorer.batch_size, len(prompts)), min(width, scorer.context), dtype=torch.long)
        before = self.follow.all_flops
        scorer.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        others = len(prompts) / len(ids) - 1  # batches that are like this one
        self.follow.add_flops(round((self.follow.all_flops - before) * others))


@torch.no_grad()
def _completions(
    trainer: Any, follow: Follow, mark: Callable[[str], None], prompt_ids: list[list[int]]
) -> list[list[int]]:
    from transformers import DynamicCache
    from trl.models.utils import disable_gradient_checkpointing

    model, rows = trainer.model_wrapped, len(prompt_ids)
    plain = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    width, new = max(map(len, prompt_ids)), trainer.args.max_completion_length
    groups = [len(list(group)) for _, group in itertools.groupby(prompt_ids)]
    shared = bool(getattr(trainer, "_samples_itself", False))  # alignkit's own sampling reads equal prompts once
    with disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        mark(PREFILL)
        cache = DynamicCache(config=plain.config)
        ids = torch.ones(len(groups) if shared else rows, width, dtype=torch.long)
        _draw(model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True,
                    logits_to_keep=1))  # fmt: skip
        if shared:
            cache.batch_select_indices(torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups)))
            ids = torch.ones(rows, width, dtype=torch.long)
        mark(DECODE)
        for layer in cache.layers:
            _grow(layer, width + new - 2)
            for tensor in (layer.keys, layer.values):
                follow.name(tensor, "rollout cache")
        seen = torch.ones(rows, width + new - 1, dtype=torch.long)
        _draw(model(input_ids=ids[:, :1], attention_mask=seen, past_key_values=cache, use_cache=True))
        for layer in cache.layers:
            for tensor in (layer.keys, layer.values):
                follow.name(tensor, "rollout cache")
    mark(SCORING)
    del cache
    stops = {*trainer.eos_token_ids, trainer.processing_class.pad_token_id}
    token = next(number for number in range(len(stops) + 1) if number not in stops)
    return [[token] * new for _ in range(rows)]


def _grow(layer: Any, length: int) -> None:
    """A cache layer as it is after `length` tokens; one with a window keeps no more than that."""
    before = layer.keys.shape[-2]
    if getattr(layer, "is_sliding", False):
        length = min(length, int(getattr(layer, "sliding_window", length)) - 1)
    if length <= before:
        return
    for name in ("keys", "values"):
        old = getattr(layer, name)
        setattr(layer, name, old.new_empty((*old.shape[:-2], length, old.shape[-1])))
    if hasattr(layer, "cumulative_length"):
        layer.cumulative_length = length


def _draw(output: Any) -> None:
    """What sampling makes of the last position's logits: a float32 copy and probabilities."""
    torch.softmax(output.logits[:, -1, :].to(copy=True, dtype=torch.float32), dim=-1)
