"""PPOTrainer: TRL's GRPOTrainer, of which it changes how completions are judged and how they are learned from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from alignkit.trainers.ppo import critics, figures
from alignkit.trainers.ppo.advantages import kl_estimate, value_errors
from alignkit.trainers.ppo.alarms import Alarms
from alignkit.trainers.ppo.config import PPOConfig
from alignkit.trainers.ppo.control import KLController, RunningScores
from alignkit.trainers.ppo.critics import Critic
from alignkit.trainers.ppo.dense import TokenRewards, keeping_token_rewards, weighted
from alignkit.trainers.ppo.forward import Pass, Tap, attach
from alignkit.trainers.ppo.reference import own_reference, prepared, reference_given
from alignkit.trainers.ppo.rollout import Rollout, judge
from alignkit.trainers.ppo.start import build_critic
from alignkit.trainers.rollouts import ExactRollouts
from alignkit.trainers.seams import project_supervised_positions_only


class PPOTrainer(ExactRollouts, GRPOTrainer):
    """Proximal policy optimization (Schulman et al. 2017) for language models, as in RLHF (Ziegler et al. 2019;
    Stiennon et al. 2020; Huang et al. 2024, "N+").

    Prompts (text or chats), generation, vLLM, tools, reward functions and models, adapters, logging and the reuse of
    rollouts are GRPOTrainer's. Two seams differ: each scored batch gets per-token advantages from GAE, and the loss
    gets a value term. A reward function may return, for each completion, a number (given at its last token), a list
    with one number a token, or `{position: number}` for single tokens, steps' ends for example; None leaves a
    completion out.

    Args:
        model: as GRPOTrainer's: a path, a PreTrainedModel or a PeftModel.
        reward_funcs: as GRPOTrainer's.
        args: a `PPOConfig`.
        critic: what values come from. None: `args.critic_kind` decides, and a model of its own starts from the first
            reward model that reads the policy's tokens, else from the policy. A path: a folder that an earlier run
            saved, or a model for `AutoModel`. Or a `Critic`, or a backbone with `last_hidden_state`.
        ref_model: the frozen reference of a policy without adapters. None: a copy of the policy as it is now. With
            adapters the reference is the policy's base, or the adapter as it was at the start.
        others: GRPOTrainer's further arguments, by name.

    Example:
        >>> trainer = PPOTrainer(
        ...     "Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, args=PPOConfig("out"), train_dataset=prompts
        ... )
        >>> trainer.train()
    """

    _tag_names = ["trl", "ppo", "alignkit"]  # noqa: RUF012 (upstream's name and type)
    _name = "PPO"

    args: PPOConfig
    reward_funcs: list[Any]
    ref_model: Any
    beta: float

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: PPOConfig | None = None,
        *,
        critic: str | Path | nn.Module | None = None,
        ref_model: nn.Module | None = None,
        **others: Any,
    ) -> None:
        args = PPOConfig("ppo") if args is None else args
        project_supervised_positions_only()
        ref_model = own_reference(model, args, others) if ref_model is None else ref_model
        with reference_given(args, ref_model):
            super().__init__(model=model, reward_funcs=reward_funcs, args=args, **others)
        self._entropy_bonus_enabled = self.use_adaptive_entropy  # the fixed bonus is added below, over the global batch
        self.beta = args.beta
        self._base = base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        self.critic: Critic | None = build_critic(self, base, critic)
        attach(base, self.critic)
        if self.critic is not None:
            keys = {f"{critics.NAME}.{name}" for name in self.critic.state_dict()}
            base._keys_to_ignore_on_save = {*(base._keys_to_ignore_on_save or ()), *keys}
        if ref_model is not None:
            self.ref_model = prepared(self, ref_model)
        if self.ref_model is not None:
            attach(self.accelerator.unwrap_model(self.ref_model), None)
        if self.use_vllm and self.critic is not None:
            self.vllm_generation.sync_weights = critics.hiding_critic(base, self.vllm_generation.sync_weights)
        self.rewards_per_function: torch.Tensor | None = None
        self.token_rewards: torch.Tensor | None = None
        self._token_rewards = [TokenRewards() for _ in self.reward_funcs]
        self.reward_funcs = [
            function if isinstance(function, nn.Module) else keeping_token_rewards(function, kept)
            for function, kept in zip(self.reward_funcs, self._token_rewards, strict=True)
        ]
        self.kl_controller = KLController(args.beta, args.kl_target, args.kl_horizon)
        self.running_scores = RunningScores()
        self.ppo_alarms = Alarms()
        layers = (module for module in base.modules() if isinstance(module, BaseTunerLayer))
        self._adapted_layer: Any = next(layers, None)
        self._valued = False  # whether the next pass over the policy is to give values
        self._pass: Pass | None = None
        self._stale = False  # whether the policy has moved too far from the rollout in hand

    # ------------------------------------------------------------------ the passes over the policy
    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Upstream's, with the policy's values taken along where this trainer asked for them."""
        wanted = self._valued and self._pass is None and not self._is_reference(model)
        tap = Tap(model, wanted and self.critic is not None)
        result = super()._get_per_token_logps_and_entropies(tap, *args, **kwargs)
        if wanted:
            self._pass = tap.last(result[0].shape[1])
        return result

    def _is_reference(self, model: Any) -> bool:
        """Whether a pass over `model` is one over the reference, which with adapters is the policy in another state."""
        if model is self.ref_model:
            return True
        layer = self._adapted_layer
        return layer is not None and (layer.disable_adapters or "ref" in layer.active_adapters)

    @contextlib.contextmanager
    def _with_values(self) -> Iterator[None]:
        self._valued, self._pass = True, None
        try:
            yield
        finally:
            self._valued = False

    def _judging_pass(self, batch: dict[str, Any]) -> Pass:
        """Old log-probabilities and old values of a scored batch, in one pass without gradients."""
        training = self.model.training
        size = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        extra = {key: batch[key] for key in figures.MODEL_INPUTS if key in batch}
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
            self._with_values(),
        ):
            self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=size,
                **extra,
            )
        assert self._pass is not None
        return self._pass

    # ------------------------------------------------------------------ the scoring seam
    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """Upstream's: (all processes' N, functions). What functions gave to single tokens goes to `token_rewards`."""
        for kept in self._token_rewards:
            kept.rows = []
        found: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.rewards_per_function = found
        self.token_rewards = weighted(self._token_rewards, self.reward_weights.tolist(), completion_ids_list)
        return found

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self._with_values():
            batch = super()._generate_and_score_completions(inputs)
        # Upstream has made the pass where a rollout serves several optimizer steps, and leaves it out otherwise.
        before = self._pass if self._pass is not None and "old_per_token_logps" in batch else self._judging_pass(batch)
        rollout, scored = self._rollout(batch, before)
        training = self.model.training
        judged = judge(
            rollout,
            self.args,
            self.kl_controller.coefficient,
            self.running_scores,
            self.global_sum,
            learn_scores=training,
        )
        batch["advantages"] = judged.advantages
        batch["old_per_token_logps"] = before.logps
        if not bool(scored.all()):  # rows that nothing could score take no part: neither as advantage nor as a zero
            batch["tool_mask"] = rollout.mask
        batch["num_items_in_batch"] = self.global_sum(rollout.mask.sum())
        if self.critic is not None:
            states = judged.states
            batch |= {"old_values": rollout.values, "returns": judged.returns, "states": states}
            batch["num_states_in_batch"] = self.global_sum(states.sum())
        self._log_rollout(rollout, judged)
        return batch

    def _rollout(self, batch: dict[str, Any], before: Pass) -> tuple[Rollout, torch.Tensor]:
        """What was drawn, and which rows any reward function could score (B,)."""
        mask = batch["completion_mask"]
        if "tool_mask" in batch:
            mask = mask * batch["tool_mask"]
        rows, tokens = mask.shape
        assert self.rewards_per_function is not None
        mine = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        given = self.rewards_per_function[mine]
        scored = ~given.isnan().all(dim=1)
        scores = (given * self.reward_weights.to(given.device)).nansum(dim=1)
        dense = torch.zeros(rows, tokens, device=given.device)
        if self.token_rewards is not None:
            dense[:, : self.token_rewards.shape[1]] = self.token_rewards.to(given.device)
            scores = scores - dense.sum(dim=1)  # it holds their sums too
        mask = mask * scored[:, None]
        stops = torch.tensor(self.eos_token_ids, device=given.device)
        ended = (torch.isin(batch["completion_ids"], stops) & (batch["completion_mask"] > 0)).any(dim=1)
        values = torch.zeros(rows, tokens + 1, device=given.device) if before.values is None else before.values
        return Rollout(mask, ended, before.logps, batch.get("ref_per_token_logps"), values, scores, dense), scored

    def _log_rollout(self, rollout: Rollout, judged: Any) -> None:
        training = self.model.training
        found = figures.of_rollout(rollout, judged, self.global_sum, critic=self.critic is not None)
        found["kl_coef"] = self.kl_controller.coefficient
        metrics = self._metrics["train" if training else "eval"]
        metrics.pop("frac_reward_zero_std", None)  # says nothing of PPO: its baseline is the critic
        error = found.pop("objective/kl_error", 0.0)
        for name, value in found.items():
            metrics[name].append(value)
        if training:
            warm = self.state.global_step >= self.args.critic_warmup_steps
            explained = found.get("value/explained_variance") if warm else None
            self.ppo_alarms.rollout(found.get("objective/kl"), error, explained)
            if "objective/kl" in found:
                rows = len(rollout.mask) * self.accelerator.num_processes
                self.kl_controller.update(found["objective/kl"], rows)

    # ------------------------------------------------------------------ the loss seam
    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        training = self.model.training
        warming = training and self.state.global_step < self.args.critic_warmup_steps
        if self.critic is not None and self.critic.kind == "head":
            self.critic.detached = warming or self.args.critic_detached
        beta, self.beta = self.beta, 0.0  # the KL term is this trainer's own
        try:
            with self._with_values():
                loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        now = self._pass
        assert now is not None
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        tokens = self._share(inputs["num_items_in_batch"])
        policy_loss = loss.detach()
        if self.args.kl_in == "loss" and "ref_per_token_logps" in inputs:
            kl = kl_estimate(now.logps, inputs["ref_per_token_logps"], self.args.kl_estimator)
            loss = loss + self.kl_controller.coefficient * (kl * mask).sum() / tokens
        if self.args.entropy_coef and not self.use_adaptive_entropy:
            loss = loss - self.args.entropy_coef * (now.entropies * mask).sum() / tokens
        if warming:
            loss = 0.0 * loss
        found = figures.of_update(now.logps, inputs["old_per_token_logps"], mask, self)
        if self.critic is not None:
            errors, clipped = value_errors(
                now.values, inputs["old_values"], inputs["returns"], self.args.cliprange_value
            )
            states = inputs["states"]
            value_loss = (errors * states).sum() / self._share(inputs["num_states_in_batch"])
            loss = loss + self.args.vf_coef * value_loss
            found |= figures.of_critic(value_loss.detach(), clipped, states, self)
        found["policy/loss"] = float(self.global_sum(policy_loss)) / self.accelerator.num_processes * self.windows()
        for name, value in found.items():
            self._metrics["train" if training else "eval"][name].append(value)
        if training:
            self.ppo_alarms.update(found["policy/ratio_min"], found["policy/ratio_max"])
            limit = self.args.target_kl
            self._stale = self._stale or (limit is not None and found["policy/approx_kl"] > limit)
        return loss

    def _share(self, total: torch.Tensor) -> torch.Tensor:
        """What an accumulation window on one process divides by: its part of a rollout's total (as loss_type dapo)."""
        share = total.clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            share = share * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return share

    def windows(self) -> float:
        """Micro-batches that make up one loss."""
        return self.current_gradient_accumulation_steps if self.model.training else 1.0

    def global_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    # ------------------------------------------------------------------ the rollout in hand
    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Upstream's, which keeps a rollout for its epochs: shuffled anew each epoch, given up when it is stale."""
        if self.model.training and self._buffered_inputs is not None:
            steps = self.args.steps_per_generation
            if self._stale and self._step % self.args.gradient_accumulation_steps == 0:
                self._buffered_inputs = None  # upstream then draws a fresh one for the same prompts
                self._metrics["train"]["policy/early_stops"].append(1.0)
            elif self._step % steps == 0 and self._step % (steps * self.num_iterations):
                self._buffered_inputs = figures.reshuffled(self._buffered_inputs)
        if self._buffered_inputs is None or self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            self._stale = False
        return super()._prepare_inputs(generation_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, extreme in (("policy/ratio_max", max), ("policy/ratio_min", min), ("policy/early_stops", sum)):
            if metrics.get(name):
                metrics[name] = [extreme(metrics[name])]  # upstream takes the mean of each list
        super().log(logs, start_time)

    # ------------------------------------------------------------------ the optimizer
    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new and self.critic is not None and self.args.critic_learning_rate is not None:
            mine = {id(parameter) for parameter in self.critic.parameters()}
            for group in list(optimizer.param_groups):
                apart = [parameter for parameter in group["params"] if id(parameter) in mine]
                if apart:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in mine]
                    rest = {key: value for key, value in group.items() if key != "params"}
                    optimizer.add_param_group({**rest, "params": apart, "lr": self.args.critic_learning_rate})
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clips the critic's gradients by themselves: jointly, a large value loss would shrink the policy's steps."""
        limit = self.args.critic_max_grad_norm
        if limit is None or self.critic is None or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        mine = {id(parameter) for parameter in self.critic.parameters()}
        policy = [parameter for parameter in model.parameters() if id(parameter) not in mine]
        norm = self.accelerator.clip_grad_norm_(policy, self.args.max_grad_norm)
        critic_norm = nn.utils.clip_grad_norm_(self.critic.parameters(), limit)
        self._metrics["train"]["value/grad_norm"].append(float(critic_norm))
        return (norm**2 + critic_norm**2) ** 0.5  # of all gradients, as upstream reports it

    # ------------------------------------------------------------------ to disk and back
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.critic is not None and self.args.should_save:
            self.save_critic(Path(output_dir or self.args.output_dir) / critics.NAME, state_dict)

    def save_beside(self, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
        """Write the critic into `folder`, which holds the saved policy."""
        if self.critic is not None:
            self.save_critic(folder / critics.NAME, state_dict)

    def save_critic(self, folder: str | Path, state_dict: dict[str, Any] | None = None) -> None:
        """Write the critic beside the policy. `state_dict` is the whole model's, where it was gathered."""
        assert self.critic is not None
        weights = None
        if state_dict is not None:
            marker = f"{critics.NAME}."
            inside = {name.removeprefix("base_model.model."): tensor for name, tensor in state_dict.items()}
            weights = {name.removeprefix(marker): tensor for name, tensor in inside.items() if name.startswith(marker)}
        critics.save_critic(self.critic, folder, weights or None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        with contextlib.nullcontext() if sharded or self.critic is None else critics.without_critic(self._base):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_critic(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_critic(self.state.best_model_checkpoint)

    def _load_critic(self, checkpoint: str) -> None:
        folder = Path(checkpoint) / critics.NAME
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # their own checkpoints hold the critic too
        if self.critic is not None and not sharded and critics.is_critic(folder):
            critics.load_weights(self.critic, folder)

    def rollout_state(self) -> dict[str, Any]:
        return super().rollout_state() | {
            "kl_controller": self.kl_controller.state_dict(),
            "running_scores": self.running_scores.state_dict(),
            "ppo_alarms": self.ppo_alarms.state_dict(),
            "stale": self._stale,
        }

    def restore_rollouts(self, state: dict[str, Any]) -> None:
        super().restore_rollouts(state)
        self.kl_controller.load_state_dict(state["kl_controller"])
        self.running_scores.load_state_dict(state["running_scores"])
        self.ppo_alarms.load_state_dict(state["ppo_alarms"])
        self._stale = state["stale"]
