"""PPO's arithmetic against plain loops."""

import random

import pytest
import torch

from alignkit.trainers.ppo.advantages import (
    explained_variance,
    generalized_advantages,
    kl_estimate,
    place_at_end,
    place_at_positions,
    value_errors,
    whiten,
)
from alignkit.trainers.ppo.alarms import PATIENCE, Alarms
from alignkit.trainers.ppo.control import KLController, RunningScores


def plain_gae(rewards, values, mask, gamma, lam):
    """One row at a time, over the steps that count alone."""
    advantages = [[0.0] * len(row) for row in rewards]
    for row in range(len(rewards)):
        steps = [t for t in range(len(mask[row])) if mask[row][t]]
        carried, following = 0.0, values[row][-1]
        for t in reversed(steps):
            delta = rewards[row][t] + gamma * following - values[row][t]
            carried = delta + gamma * lam * carried
            advantages[row][t] = carried
            following = values[row][t]
    return advantages


@pytest.mark.parametrize("seed", range(20))
def test_gae_equals_a_plain_loop_on_random_masks_and_lengths(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    rows, length = draw.randint(1, 5), draw.randint(1, 12)
    mask = torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        mask[row, : draw.randint(0, length)] = 1
    mask *= torch.rand(rows, length) > 0.2  # holes, as the output of tools leaves them
    rewards = torch.randn(rows, length, dtype=torch.double)
    values = torch.randn(rows, length + 1, dtype=torch.double)
    gamma, lam = draw.choice([1.0, 0.99, 0.5]), draw.choice([0.0, 0.95, 1.0])
    ours = generalized_advantages(rewards, values, mask, gamma, lam)
    plain = plain_gae(rewards.tolist(), values.tolist(), mask.tolist(), gamma, lam)
    torch.testing.assert_close(ours, torch.tensor(plain, dtype=torch.double), rtol=1e-10, atol=1e-10)


def test_without_a_critic_and_discounts_the_advantage_is_the_return():
    rewards = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    advantages = generalized_advantages(rewards, torch.zeros(1, 5), mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[6.0, 5.0, 3.0, 0.0]]


def test_kl_estimators_agree_on_average_and_k3_is_never_negative():
    torch.manual_seed(0)
    policy, other = torch.randn(5).log_softmax(0), torch.randn(5).log_softmax(0)
    exact = (policy.exp() * (policy - other)).sum()
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True)
    for estimator in ("k1", "k3"):
        assert kl_estimate(policy[drawn], other[drawn], estimator).mean() == pytest.approx(exact.item(), rel=0.03)
    assert kl_estimate(policy[drawn], other[drawn], "k3").min() >= 0
    small = 1e-3 * torch.randn(100)
    torch.testing.assert_close(
        kl_estimate(small, 0 * small, "k2"), kl_estimate(small, 0 * small, "k3"), atol=1e-9, rtol=1e-2
    )


def test_scores_stand_at_the_last_token_that_counts():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
    placed = place_at_end(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask)
    assert placed.tolist() == [[0, 1, 0, 0], [0, 0, 0, 2], [0, 0, 3, 0], [0, 0, 0, 0]]


def test_dense_rewards_are_a_list_or_positions_and_nothing_else():
    assert place_at_positions([1, 2, 3], 3) == [1, 2, 3]
    assert place_at_positions({1: 0.5, -1: 2}, 4) == [0, 0.5, 0, 2]
    with pytest.raises(ValueError, match="2 token rewards for a completion of 3 tokens"):
        place_at_positions([1, 2], 3)
    with pytest.raises(ValueError, match="position 3"):
        place_at_positions({3: 1.0}, 3)


def test_whitening_takes_the_whole_batch_and_can_keep_the_mean():
    torch.manual_seed(0)
    x, mask = 3 + 2 * torch.randn(6, 5), (torch.rand(6, 5) > 0.3).long()
    taken = mask.bool()
    whitened = whiten(x, mask)
    assert whitened[taken].mean().abs() < 1e-5 and whitened[taken].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert whitened[~taken].abs().sum() == 0
    kept = whiten(x, mask, shift_mean=False)
    assert kept[taken].mean() == pytest.approx(x[taken].mean().item(), abs=1e-4)

    # Two processes with a half each: `reduce` adds what the other one has, call by call.
    halves, heard = [(x[:3], mask[:3]), (x[3:], mask[3:])], []
    whiten(*halves[1], reduce=lambda sums: heard.append(sums) or sums)
    spread = lambda mean: ((x[3:].double() - mean).square() * mask[3:]).sum()  # noqa: E731
    mean = x[taken].double().mean()
    answers = iter([heard[0], spread(mean)])
    torch.testing.assert_close(whiten(*halves[0], reduce=lambda sums: sums + next(answers)), whitened[:3])


def test_explained_variance_of_a_perfect_a_constant_and_a_wrong_critic():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full((1, 3), 9.0), returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert explained_variance(returns, 0 * returns, mask).isnan()  # nothing to explain


def test_a_value_may_move_no_further_than_its_clip_range():
    values, old, returns = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.full((2,), 1.0)
    errors, clipped = value_errors(values, old, returns, cliprange=0.2)
    assert errors.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])  # the first is held at 0.2
    assert clipped.tolist() == [True, False]
    free, none = value_errors(values, old, returns, cliprange=None)
    assert free.tolist() == pytest.approx([0, 0.5 * 0.9**2]) and not none.any()


def test_the_kl_coefficient_goes_towards_its_target_and_a_fixed_one_stays():
    adaptive, fixed = KLController(0.1, target=6.0, horizon=1000), KLController(0.1)
    for controller in (adaptive, fixed):
        controller.update(kl=60.0, samples=100)
    assert adaptive.coefficient == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))  # the error is cut at 0.2
    assert fixed.coefficient == 0.1
    adaptive.update(kl=3.0, samples=100)
    assert adaptive.coefficient == pytest.approx(0.102 * (1 - 0.2 * 100 / 1000))


def test_running_scores_equal_those_of_all_scores_at_once():
    torch.manual_seed(0)
    scores, running = torch.randn(50, dtype=torch.double) * 3 + 7, RunningScores()
    for batch in scores.split([1, 20, 29]):
        running.update(len(batch), batch.mean().item(), batch.var(unbiased=False).item())
    assert running.mean == pytest.approx(scores.mean().item())
    assert running.std == pytest.approx(scores.std(unbiased=False).item())
    assert RunningScores().std == 1.0


def test_alarms_name_the_usual_causes_once(caplog):
    alarms = Alarms()
    alarms.rollout(kl=-0.01, kl_error=0.01, explained=0.5)  # within the noise
    alarms.update(0.5, 2.0)
    assert not caplog.messages
    for _ in range(PATIENCE):
        alarms.rollout(kl=-0.5, kl_error=0.01, explained=-0.1)
        alarms.update(0.9, 50.0)
    heard = " ".join(caplog.messages)
    assert len(caplog.messages) == 3
    assert "below zero" in heard and "top_k" in heard
    assert "50 times as likely" in heard and "learning_rate" in heard
    assert f"for {PATIENCE} rollouts" in heard and "vf_coef" in heard
