"""Bandits with a known optimum: one token a completion, so that the best policy can be written down."""

import pytest
import torch
from datasets import Dataset
from ppo_parts import logged, tokenizer, trainer

ARMS = {"7": 1.0, "3": 0.5}


def pull(completions, **_):
    return [ARMS.get(text, 0.0) for text in completions]


def distribution(made):
    ids = torch.tensor([tokenizer()("1+1=")["input_ids"]])
    with torch.no_grad():
        return made.model(ids).logits[0, -1].softmax(-1)


def bandit(folder, **settings):
    return trainer(
        folder, reward_funcs=pull, dataset=Dataset.from_dict({"prompt": ["1+1="] * 64}), max_completion_length=1,
        per_device_train_batch_size=64, lr_scheduler_type="constant", learning_rate=3e-3, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["model", "head", "none"])
def test_the_best_arm_is_found(tmp_path, kind):
    made = bandit(tmp_path, critic_kind=kind, beta=0.0, max_steps=60, num_iterations=2)
    seven = tokenizer().convert_tokens_to_ids("7")
    assert distribution(made)[seven] < 0.05
    made.train()
    assert distribution(made)[seven] > 0.95
    if kind == "model":
        assert logged(made, "objective/scores")[-1] > 0.95


@pytest.mark.parametrize("kl_in, estimator", [("reward", "k1"), ("loss", "k2")])
def test_with_a_kl_penalty_the_optimum_is_the_tilted_reference(tmp_path, kl_in, estimator):
    """argmax_π E[r] − β KL(π ‖ ref) is ref · exp(r / β), normalised (Ziegler et al. 2019, equation 2 and below)."""
    beta = 0.25
    made = bandit(
        tmp_path, critic_kind="head", beta=beta, kl_in=kl_in, kl_estimator=estimator, max_steps=150, num_iterations=1,
        whiten_advantages=False, critic_detached=True, vf_coef=1.0,
    )  # fmt: skip
    reference = distribution(made)
    rewards = torch.zeros_like(reference)
    for text, reward in ARMS.items():
        rewards[tokenizer().convert_tokens_to_ids(text)] = reward
    optimum = (reference.log() + rewards / beta).softmax(-1)
    made.train()
    learned = distribution(made)
    for text in ARMS:
        arm = tokenizer().convert_tokens_to_ids(text)
        assert reference[arm] < 0.03 and learned[arm] == pytest.approx(optimum[arm].item(), abs=0.08)
