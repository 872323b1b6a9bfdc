"""The figures that PPO is judged by, and the shuffling of a rollout that is used for several epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from alignkit.trainers.ppo.advantages import Reduce, explained_variance, masked_moments

if TYPE_CHECKING:
    from alignkit.trainers.ppo.rollout import Judged, Rollout
    from alignkit.trainers.ppo.trainer import PPOTrainer

# What a vision-language model reads besides ids and mask: carried by the batch under these keys.
MODEL_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)


def of_rollout(rollout: Rollout, judged: Judged, reduce: Reduce, *, critic: bool) -> dict[str, float]:
    """Figures of one rollout over all processes. A completion's KL is the sum over its tokens, in nats.

    `objective/rlhf_reward` = `objective/scores` + `objective/non_score_reward` is what is maximised.
    `objective/kl_error` is the standard error of `objective/kl`.
    """
    mask, rows = rollout.mask, rollout.mask.amax(dim=1)
    found = {"objective/scores": _mean(judged.scores, rows, reduce)}
    total = _mean(judged.rewards.sum(1), rows, reduce)
    found["objective/rlhf_reward"] = total
    found["objective/non_score_reward"] = total - found["objective/scores"]
    if rollout.ref_logps is not None:
        nats = ((rollout.logps - rollout.ref_logps) * mask).sum(1)
        mean, variance = masked_moments(nats, rows, reduce)
        count = float(reduce(rows.sum().double()))
        found["objective/kl"], found["kl"] = float(mean), _mean(judged.kl, mask, reduce)
        found["objective/kl_error"] = (float(variance) / max(count, 1)) ** 0.5
    found["completions/without_eos"] = _mean((~rollout.ended).double(), rows, reduce)
    for name, tensor in (("advantages", judged.raw_advantages), ("returns", judged.returns[:, :-1])):
        mean, variance = masked_moments(tensor, mask, reduce)
        found[f"{name}/mean"], found[f"{name}/std"] = float(mean), float(variance) ** 0.5
    if critic:
        values, returns = rollout.values[:, :-1], judged.returns[:, :-1]
        found["value/mean"] = _mean(values, mask, reduce)
        found["value/explained_variance"] = float(explained_variance(values, returns, mask, reduce))
    return found


def of_update(
    logps: torch.Tensor, old_logps: torch.Tensor, mask: torch.Tensor, trainer: PPOTrainer
) -> dict[str, float]:
    """Figures of one pass over a micro-batch (B, T), over all processes.

    `policy/approx_kl` is the k3 estimate of KL(old ‖ new) a token (Schulman 2020); `policy/clip_fraction` the share of
    tokens whose ratio has left the clip range, on either side.
    """
    log_ratio = (logps.detach() - old_logps) * mask
    ratio = log_ratio.exp()
    outside = (ratio < 1 - trainer.epsilon_low) | (ratio > 1 + trainer.epsilon_high)
    sums = torch.stack([(ratio - 1 - log_ratio).sum(), (outside * mask).sum(), (ratio * mask).sum(), mask.sum()])
    kl, clipped, total, count = trainer.global_sum(sums.double()).tolist()
    extremes = trainer.accelerator.gather(torch.stack([ratio.min(), ratio.max()])[None])  # padding counts as 1
    return {
        "policy/approx_kl": kl / max(count, 1),
        "policy/clip_fraction": clipped / max(count, 1),
        "policy/ratio": total / max(count, 1),
        "policy/ratio_min": float(extremes[:, 0].min()),
        "policy/ratio_max": float(extremes[:, 1].max()),
    }


def of_critic(loss: torch.Tensor, clipped: torch.Tensor, states: torch.Tensor, trainer: PPOTrainer) -> dict[str, float]:
    """The value loss (before `vf_coef`) and the share of states whose clipped error was the larger one."""
    sums = torch.stack([loss.double(), (clipped * states).sum().double(), states.sum().double()])
    total, held, count = trainer.global_sum(sums).tolist()
    return {
        "value/loss": total / trainer.accelerator.num_processes * trainer.windows(),
        "value/clip_fraction": held / max(count, 1),
    }


def _mean(x: torch.Tensor, mask: torch.Tensor, reduce: Reduce) -> float:
    return float(masked_moments(x, mask, reduce)[0])


def reshuffled(micro_batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a rollout's micro-batches dealt out anew. Batches with images stay as they are: theirs are ragged."""
    if any(key in MODEL_INPUTS for key in micro_batches[0]):
        return micro_batches
    size = len(micro_batches[0]["completion_ids"])
    order = torch.randperm(size * len(micro_batches)).split(size)
    joined = {
        key: value if value is None or value.ndim == 0 else torch.cat([batch[key] for batch in micro_batches])
        for key, value in micro_batches[0].items()
    }
    return [
        {key: value if value is None or value.ndim == 0 else value[rows] for key, value in joined.items()}
        for rows in order
    ]
