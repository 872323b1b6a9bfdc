"""PPOConfig: GRPOConfig's fields, with PPO's defaults, and those that a critic and per-token rewards add."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from trl import GRPOConfig

from alignkit.recipe.owned import NOT_IN_PPO


def _own(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PPOConfig(GRPOConfig):
    """Configuration of `PPOTrainer`: every field of `trl.GRPOConfig` that PPO has a use for, and its own.

    PPO's words in GRPOConfig's: the epochs over a rollout are `num_iterations`; a rollout is cut into
    `steps_per_generation` micro-batches, of which `gradient_accumulation_steps` make one optimizer step (a minibatch);
    the clip range is `epsilon` (upwards `epsilon_high`); dual clip is `delta`; the KL coefficient is `beta`; the
    response length is `max_completion_length`. The loss is always the mean over the tokens of the global batch.
    Where TRL's former PPOConfig had a field, its name is kept (`gamma`, `lam`, `vf_coef`, `cliprange_value`,
    `kl_estimator`, `whiten_rewards`, `missing_eos_penalty`).
    """

    learning_rate: float = _own(1e-6, "Initial learning rate of the policy, and of the critic unless it has its own.")
    adam_epsilon: float = _own(1e-5, "Epsilon of AdamW (Huang et al. 2022, detail 3).")
    num_generations: int | None = _own(1, "Completions a prompt. One is enough for PPO: the critic is the baseline.")
    num_generations_eval: int | None = _own(1, "Completions a prompt during evaluation.")
    num_iterations: int = _own(4, "Epochs over each rollout, reshuffled.")
    beta: float = _own(0.05, "KL coefficient. 0: no reference is kept and no KL is computed.")
    loss_type: str = _own("dapo", "The mean over the tokens of the global batch; PPO has no other.")
    disable_dropout: bool = _own(True, "No dropout in policy and critic: a rollout's probabilities must come back.")

    # The KL penalty
    kl_in: Literal["reward", "loss"] = _own(
        "reward", "Where the KL penalty goes: into each token's reward, or the loss."
    )
    kl_estimator: Literal["k1", "k2", "k3"] = _own(
        "k1", "Per-token KL estimator (Schulman 2020); in the loss k2 or k3."
    )
    kl_target: float | None = _own(None, "KL in nats a completion that an adaptive beta aims at. None: beta is fixed.")
    kl_horizon: int = _own(10_000, "Completions over which an adaptive beta moves by about its error.")

    # Rewards
    missing_eos_penalty: float | None = _own(None, "Taken off the score of a completion without a stop token.")
    normalize_scores: bool = _own(False, "Whether scores are shifted and scaled by their running mean and deviation.")
    score_clip: float | None = _own(None, "Bound on the absolute value of a completion's score, after normalising.")
    whiten_rewards: bool = _own(False, "Whether token rewards are scaled to variance 1, their mean kept.")

    # Advantages
    gamma: float = _own(1.0, "Discount a token.")
    lam: float = _own(0.95, "GAE's lambda for the advantages.")
    critic_lam: float | None = _own(None, "GAE's lambda for the critic's targets (VAPO: 1.0). None: the same as lam.")
    whiten_advantages: bool = _own(True, "Whether advantages get mean 0 and variance 1 over the global batch.")
    bootstrap_truncated: bool = _own(False, "Whether a completion that was cut off goes on with the critic's value.")

    # The critic
    critic_kind: Literal["model", "head", "trunk", "none"] = _own(
        "model", "A model of its own, a head on the policy, a small trunk on the policy's hidden states, or none."
    )
    critic_layers: int = _own(2, "Layers of a critic trunk.")
    critic_width: int | None = _own(None, "Width of a critic trunk. None: the policy's, at most 1024.")
    critic_detached: bool = _own(False, "Whether a critic head leaves the policy's backbone alone.")
    critic_learning_rate: float | None = _own(None, "Learning rate of the critic. None: the policy's.")
    critic_max_grad_norm: float | None = _own(1.0, "Bound on the critic's own gradient norm. None: clipped jointly.")
    critic_warmup_steps: int = _own(0, "Optimizer steps at the start in which the critic alone is trained.")
    vf_coef: float = _own(0.1, "Weight of the value loss.")
    cliprange_value: float | None = _own(
        0.2, "How far a value may move from its old one in a rollout. None: unbounded."
    )

    # Stopping early
    target_kl: float | None = _own(None, "KL from the old policy, nats a token, past which a rollout is given up.")

    def __post_init__(self) -> None:
        single = self.num_generations == 1
        if single:  # GRPO needs two for its baseline; any divisor of the batch passes its check
            steps = self.steps_per_generation or self.gradient_accumulation_steps
            rows = self.generation_batch_size or self.per_device_train_batch_size * steps  # of one process, or of all
            self.num_generations = max(2, rows)
        super().__post_init__()
        if single:
            self.num_generations = 1
        self._refuse_foreign()
        self._check_bounds()

    def _refuse_foreign(self) -> None:
        if self.loss_type != "dapo":
            raise ValueError(
                f"loss_type={self.loss_type!r}: PPO's loss is the mean over the tokens of the global batch"
            )
        defaults = {one.name: one.default for one in fields(self)}
        for name, why in NOT_IN_PPO.items():
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no use in PPO: {why}")

    def _check_bounds(self) -> None:
        for name in ("gamma", "lam", "critic_lam"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is not between 0 and 1")
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_in='loss' needs kl_estimator 'k2' or 'k3': the gradient of k1 is zero on average")
        if self.critic_kind not in ("model", "head", "trunk", "none"):
            raise ValueError(f"critic_kind={self.critic_kind!r} is none of model, head, trunk, none")
        if self.kl_target is not None and self.beta == 0:
            raise ValueError("kl_target needs a beta above 0 to adapt")
        if self.bootstrap_truncated and self.critic_kind == "none":
            raise ValueError("bootstrap_truncated needs a critic")
