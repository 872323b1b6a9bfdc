"""What every trainer shares that learns from its own completions: rewards, watching, and resuming exactly.

Mixed in before TRL's GRPOTrainer, RLOOTrainer, or a subclass of them, by `online`. It touches these names of TRL's
that are not public (tests/methods/test_online_seams.py watches them): `_generate`, `_generate_and_score_completions`,
`_tokenize_prompts`, `_generate_single_turn`, `_calculate_rewards`, `_get_train_sampler`, `_step`, `_buffered_inputs`,
`_metrics`, `_log_completion_extra`, `_log_metric`, `use_transformers_continuous_batching`, `generation_config` and
`generation_kwargs`; and of Trainer's: `_save_rng_state`, `_load_optimizer_and_scheduler`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather, gather_object
from torch.utils.data import Sampler
from transformers import GenerationConfig, Trainer
from transformers.trainer_utils import EvalLoopOutput
from trl.models.utils import unwrap_model_for_generation

from alignkit.data import as_sample
from alignkit.metrics.match import exact_match
from alignkit.metrics.references import references_of
from alignkit.rewards import Call, text_of
from alignkit.rewards.mixture import Mixture, Pending, Scored
from alignkit.trainers import given_reference
from alignkit.trainers.alarms import Alarms
from alignkit.trainers.completing import Sampling, can_sample, sample
from alignkit.trainers.guards import guarded
from alignkit.trainers.order import Difficulty, DifficultySampler
from alignkit.trainers.rollouts import ExactRollouts
from alignkit.trainers.samples import SamplesFile

if TYPE_CHECKING:
    from alignkit.models.reference import Reference

SAMPLING = ("temperature", "top_p", "top_k", "min_p")
logger = logging.getLogger("alignkit.online")


class Online(ExactRollouts):
    """See `online`.

    Args:
        rewards: asked in place of TRL's `reward_funcs`.
        answer: how the answer is found in a held-out completion (metrics.answers.extractor); None: all of it.
        difficulty_sampling: sample prompts less that are always or never solved.
        samples_path: where completions are written through training.
        reference: what the policy is held near, where `beta` is not 0.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        rewards: Mixture,
        answer: str | None = None,
        difficulty_sampling: bool = False,
        samples_path: Path | None = None,
        reference: Reference | None = None,
        **kwargs: Any,
    ) -> None:
        self.rewards = rewards
        self.answer = answer
        self.difficulty = Difficulty() if difficulty_sampling else None
        self.alarms = Alarms()
        self.token_rewards: torch.Tensor | None = None
        """(N, T) weighted sums of the rewards per token of the last generation on this process; None without any."""
        self.rewards_per_function: torch.Tensor | None = None
        """(all processes' N, functions) of the last generation, NaN where a function gave none; a row that was scored
        per token has its sum here."""
        self._sampler: DifficultySampler | None = None
        self._samples: list[dict[str, Any]] = []
        self._prompt_ids: list[list[int]] = []
        self._pending: Pending | None = None
        self._shown: list[dict[str, Any]] = []
        with given_reference.loading(type(self), reference):
            super().__init__(*args, reward_funcs=[_named(name) for name in rewards.names], **kwargs)
        given_reference.settle(self, reference)
        self.samples_file = SamplesFile(samples_path if self.args.should_save else None)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """A run that ends badly must not wait for a reward that hangs."""
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            self.rewards.close()
            raise

    # ------------------------------------------------------------------ generation and rewards
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """`inputs` are rows of `data.prompts`: TRL is given what a row stands for."""
        self._samples = [as_sample(row) for row in inputs]
        self._prompt_ids = [list(row["prompt_ids"]) for row in inputs]
        self.token_rewards = None
        return super()._generate_and_score_completions(self._samples)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """They were tokenized with the data, by the template, tools and template variables of their own row."""
        assert len(prompts) == len(self._prompt_ids)
        return self._prompt_ids, None, {}

    def _generate(self, prompts: list[Any]) -> Any:
        """Rewards that run apart are asked as soon as there are completions; the trainer goes on meanwhile."""
        made = super()._generate(prompts)
        ids, completions = made[1], made[3] if len(made) > 3 else made[2]
        self.tokens_seen += sum(map(len, self._prompt_ids)) + sum(map(len, ids))
        self._pending = self.rewards.start(self._call(self._samples, completions, ids))
        return made

    def _generate_single_turn(self, prompt_ids: list[list[int]], *others: Any, **more: Any) -> Any:
        """By `trainers.completing` where the model is whole in this process, else as TRL does it."""
        turn = super()._generate_single_turn
        if not self._samples_itself:
            return turn(prompt_ids, *others, **more)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            ids = sample(model, prompt_ids, Sampling.of(self.generation_kwargs))
        return (ids, None) if "num_generations" in inspect.signature(turn).parameters else ids

    @functools.cached_property
    def _samples_itself(self) -> bool:
        args = self.args
        upstreams = self.use_vllm or self.use_transformers_continuous_batching or args.generation_kwargs
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # all processes must go through as many steps
        return not (upstreams or args.cache_implementation or sharded) and can_sample(self.model)

    def _call(self, samples: Sequence[Mapping[str, Any]], completions: Sequence[Any], ids: Sequence[list[int]]) -> Call:
        keys = [key for key in samples[0] if key not in ("prompt", "completion", "completion_ids")]
        columns = {key: [sample.get(key) for sample in samples] for key in keys}
        state = {name: getattr(self.state, name) for name in ("global_step", "max_steps", "epoch")}
        return Call([sample["prompt"] for sample in samples], completions, ids, columns, state)

    def _calculate_rewards(
        self, _inputs: Any, _prompts: Any, completions: list[Any], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """(all processes' N, functions), NaN where a function gave no reward."""
        pending, self._pending = self._pending, None
        began = time.perf_counter()
        assert pending is not None
        scored = pending.wait()
        log: Any = self
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["reward_wait_s"].append(time.perf_counter() - began)
        for name, one in zip(self.rewards.names, scored, strict=True):
            for column, values in one.answer.extra:
                log._log_completion_extra(column, values)
            for metric, value in one.answer.metrics:
                log._log_metric(metric, value)
            metrics[f"rewards/{name}/none"].append(_share_of_none(one))
        self.token_rewards = self._per_token(scored, completion_ids_list)
        device = self.accelerator.device
        local = torch.tensor([_as_numbers(one.values) for one in scored], dtype=torch.float32, device=device).T
        self._learn_difficulty(local)
        self._shown = self._readable(self._samples, completions, scored)
        self.rewards_per_function = gather(local.contiguous())
        return self.rewards_per_function

    def _per_token(self, scored: Sequence[Scored], ids: Sequence[Sequence[int]]) -> torch.Tensor | None:
        if not any(row is not None for one in scored for row in one.per_token):
            return None
        total = torch.zeros(len(ids), max(map(len, ids)), device=self.accelerator.device)
        for weight, one in zip(self.rewards.weights, scored, strict=True):
            for place, row in enumerate(one.per_token):
                if row is not None:
                    total[place, : len(row)] += weight * torch.tensor(row, device=total.device)
        return total

    def _totals(self, local: torch.Tensor) -> list[float | None]:
        """The weighted sum of each row, (N, functions); None where no function gave a reward."""
        weights = torch.tensor(self.rewards.weights, device=local.device)
        sums = (local * weights).nansum(1).tolist()
        none = local.isnan().all(1).tolist()
        return [None if empty else value for value, empty in zip(sums, none, strict=True)]

    def _learn_difficulty(self, local: torch.Tensor) -> None:
        if self.difficulty is None or not self.model.training:
            return
        names = [sample["example_id"] for sample in self._samples]
        pairs = [pair for pair in zip(names, self._totals(local), strict=True) if pair[1] is not None]
        pairs = gather_object(pairs)  # all processes keep the same estimates: their samplers must agree
        self.difficulty.update([name for name, _ in pairs], [reward for _, reward in pairs])
        for name, value in self.difficulty.figures().items():
            self._metrics["train"][name] = [value]

    def _readable(
        self, samples: Sequence[Mapping[str, Any]], completions: Sequence[Any], scored: Sequence[Scored]
    ) -> list[dict[str, Any]]:
        """This process's samples as people read them."""
        local = torch.tensor([_as_numbers(one.values) for one in scored]).T
        return [
            {
                "id": sample["example_id"],
                "prompt": text_of(sample["prompt"]),
                "completion": text_of(completion),
                "references": references_of(sample),
                "reward": total,
                "rewards": {name: one.values[place] for name, one in zip(self.rewards.names, scored, strict=True)},
            }
            for place, (sample, completion, total) in enumerate(
                zip(samples, completions, self._totals(local), strict=True)
            )
        ]

    # ------------------------------------------------------------------ watching
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)  # TRL adds its metrics to `logs`
        if "loss" in logs and self._shown:
            self.samples_file.extremes(self.state.global_step, self._shown)
            self._shown = []
        held_out = len(self.eval_dataset) if self.eval_dataset is not None else 0
        for text in self.alarms.read(logs, held_out):
            logger.warning("step %d: %s", self.state.global_step, text)

    def evaluation_loop(self, dataloader: Any, *_args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Held-out prompts answered greedily, once each: exact match, rewards, length, and the share cut off."""
        self.model.eval()
        rows = dataloader.dataset
        mine = range(self.accelerator.process_index, len(rows), self.accelerator.num_processes)
        at_once = self.args.eval_batch_size
        found: list[dict[str, Any]] = []
        with self._greedily():
            # All processes generate equally often: sharded models would wait for each other.
            for start in range(0, math.ceil(len(rows) / self.accelerator.num_processes), at_once):
                places = list(mine[start : start + at_once]) or [0]
                found += self._answered([rows[place] for place in places])[: len(mine) - start]
        everyone = sorted(gather_object(found), key=lambda one: one["id"])
        if self.state.is_world_process_zero:
            kept = ("id", "prompt", "completion", "references", "reward", "rewards")
            self.samples_file.held_out(self.state.global_step, [{key: one[key] for key in kept} for one in everyone])
        prefix = kwargs.get("metric_key_prefix", "eval")
        figures = {f"{prefix}_{key}": value for key, value in self._figures(everyone).items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=figures, num_samples=len(everyone))

    def _answered(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Completions of rows, with their rewards."""
        samples, prompt_ids = [as_sample(row) for row in rows], [list(row["prompt_ids"]) for row in rows]
        turn: Callable[..., Any] = self._generate_single_turn
        counted = (1,) if "num_generations" in inspect.signature(super()._generate_single_turn).parameters else ()
        made = turn(prompt_ids, None, {}, *counted)
        ids = made[0] if isinstance(made, tuple) else made
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        said = [
            [{"role": "assistant", "content": text}] if isinstance(sample["prompt"], list) else text
            for sample, text in zip(samples, texts, strict=True)
        ]
        shown = self._readable(samples, said, self.rewards.score(self._call(samples, said, ids)))
        stops = {*self.eos_token_ids, self.processing_class.pad_token_id}
        for one, row in zip(shown, ids, strict=True):
            one |= {"length": len(row), "truncated": not row or row[-1] not in stops}
        return shown

    def _figures(self, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        figures = {
            "mean_length": _mean([one["length"] for one in found]),
            "truncated": _mean([one["truncated"] for one in found]),
        }
        rewarded = [one for one in found if one["reward"] is not None]
        if rewarded:
            figures["reward"] = _mean([one["reward"] for one in rewarded])
        for name in self.rewards.names:
            values = [one["rewards"][name] for one in found if one["rewards"][name] is not None]
            if values:
                figures[f"rewards/{name}"] = _mean(values)
        if all(one["references"] for one in found):
            texts, references = [one["completion"] for one in found], [one["references"] for one in found]
            figures["exact_match"] = exact_match(texts, references, answer=self.answer).value or 0.0
        return figures

    @contextlib.contextmanager
    def _greedily(self) -> Iterator[None]:
        """Generation without sampling, by whichever backend."""
        holder: Any = self.vllm_generation if getattr(self, "use_vllm", False) else self
        changed: dict[str, Any]
        if holder is not self:
            kept = {name: getattr(holder, name) for name in SAMPLING}
            changed = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": None}
        else:
            kept = {name: getattr(self, name) for name in ("generation_config", "generation_kwargs")}
            plain = {key: value for key, value in self.generation_kwargs.items() if key not in SAMPLING}
            plain |= {"do_sample": False}
            config = GenerationConfig(**plain, disable_compile=True)
            changed = {"generation_config": config, "generation_kwargs": plain}
        for name, value in changed.items():
            setattr(holder, name, value)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(holder, name, value)

    # ------------------------------------------------------------------ order and exact resume
    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        if self.difficulty is None:
            return super()._get_train_sampler(dataset)
        dataset = self.train_dataset if dataset is None else dataset
        self._sampler = DifficultySampler(dataset["example_id"][:], self.difficulty, **self.order_options())
        return self._sampler

    def rollout_state(self) -> dict[str, Any]:
        return super().rollout_state() | {
            "shown": self._shown,
            "alarms": self.alarms.state(),
            "difficulty": self.difficulty.state() if self.difficulty is not None else None,
            "sampler": self._sampler.state() if self._sampler is not None else None,
        }

    def restore_rollouts(self, state: dict[str, Any]) -> None:
        super().restore_rollouts(state)
        self._shown = state["shown"]
        self.alarms.restore(state["alarms"])
        if self.difficulty is not None and self._sampler is not None and state["sampler"] is not None:
            self.difficulty.restore(state["difficulty"])
            self._sampler.restore({**state["sampler"], "generator": state["sampler"]["generator"].cpu()})
        self.samples_file.drop_after(self.state.global_step)


def _named(name: str) -> Callable[..., Any]:
    """TRL wants functions for their names; the rewards themselves are asked by `_calculate_rewards` above."""

    def ask(**_kwargs: Any) -> Any:
        raise AssertionError("rewards are asked through the mixture")

    ask.__name__ = name
    return ask


def _as_numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _share_of_none(one: Scored) -> float:
    return sum(value is None for value in one.values) / max(1, len(one.values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


@functools.cache
def online(trainer_class: type[Trainer]) -> type[Trainer]:
    """`trainer_class` (TRL's GRPOTrainer, RLOOTrainer, or a subclass) with this module's mixin and the guards."""
    name, bases = trainer_class.__name__, (Online, trainer_class)
    return guarded(type(name, bases, {"__module__": __name__, "__doc__": trainer_class.__doc__}))
