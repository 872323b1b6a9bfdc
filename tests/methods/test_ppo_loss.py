"""What PPO's rollouts and losses have to be, on a real trainer and tiny models."""

import pytest
import torch
from ppo_parts import gpt2, gradients, logged, policy, rollout, sevens, tokenizer, trainer
from trl.trainer.utils import split_tensor_dict

CRITICS = ("model", "head", "trunk", "none")


@pytest.mark.parametrize("kind", CRITICS)
def test_at_step_0_the_ratio_is_1_the_kl_0_and_nothing_is_clipped(tmp_path, kind):
    made = trainer(tmp_path, critic_kind=kind, max_steps=1, steps_per_generation=2, gradient_accumulation_steps=2)
    made.train()
    (kl,), (ratio,), (clipped,) = (logged(made, key) for key in ("kl", "policy/ratio", "policy/clip_fraction"))
    assert abs(kl) < 1e-6 and abs(logged(made, "objective/kl")[0]) < 1e-6
    assert abs(ratio - 1) < 1e-6 and abs(logged(made, "policy/ratio_max")[0] - 1) < 1e-6
    assert clipped == 0 and logged(made, "policy/approx_kl")[0] < 1e-6
    if kind != "none":  # a head of zeros knows nothing yet: it explains no variance, and says so
        assert logged(made, "value/explained_variance") == [0.0]


def test_without_critic_and_discounts_the_advantage_of_each_token_is_the_return(tmp_path):
    made = trainer(tmp_path, critic_kind="none", lam=1.0, gamma=1.0, whiten_advantages=False, beta=0.0)
    batch = rollout(made)
    texts = tokenizer().batch_decode(batch["completion_ids"], skip_special_tokens=True)
    for row, score in enumerate(sevens(texts)):
        taken = batch["advantages"][row][batch["completion_mask"][row] > 0]
        torch.testing.assert_close(taken, torch.full_like(taken, score))


def test_a_token_reward_on_the_last_token_equals_the_same_terminal_reward(tmp_path):
    def as_list(completions, completion_ids, **_):
        return [[0.0] * (len(ids) - 1) + [s] for ids, s in zip(completion_ids, sevens(completions), strict=True)]

    def as_position(completions, **_):
        return [{-1: score} for score in sevens(completions)]

    batches = [rollout(trainer(tmp_path, reward_funcs=given)) for given in (sevens, as_list, as_position)]
    for batch in batches[1:]:
        for key, value in batches[0].items():
            torch.testing.assert_close(batch[key], value, msg=key)


def test_the_kl_of_a_moved_policy_is_in_the_rewards_and_lowers_the_returns(tmp_path):
    made = trainer(tmp_path, critic_kind="none", lam=1.0, whiten_advantages=False, beta=0.5)
    with torch.no_grad():
        made.model.lm_head.weight.add_(0.05 * torch.randn_like(made.model.lm_head.weight))
    batch = rollout(made)
    mask = batch["completion_mask"]
    kl = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * mask
    assert kl.abs().sum() > 0.1
    texts = tokenizer().batch_decode(batch["completion_ids"], skip_special_tokens=True)
    scores = torch.tensor(sevens(texts))
    torch.testing.assert_close(batch["advantages"][:, 0], scores - 0.5 * kl.sum(1))
    found = {key: values[-1] for key, values in made._metrics["train"].items()}
    assert found["objective/kl"] == pytest.approx(kl.sum(1).mean().item(), rel=1e-4)
    assert found["objective/non_score_reward"] == pytest.approx(-0.5 * found["objective/kl"], rel=1e-4)
    assert found["objective/rlhf_reward"] == pytest.approx(scores.mean().item() - 0.5 * found["objective/kl"], rel=1e-4)


def _moved(made):
    """The trainer's policy and critic some way from where its rollout was drawn: ratios, clips and value errors."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


def _repadded(batch, left, right, pad):
    """The same completions in wider columns."""
    wider = dict(batch)
    for key, value in batch.items():
        if not isinstance(value, torch.Tensor) or value.ndim != 2:
            continue
        fill = pad if key.endswith("_ids") else 0
        columns = (left, 0) if key.startswith("prompt") else (0, right)
        wider[key] = torch.nn.functional.pad(value, columns, value=fill)
    return wider


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("make", [policy, gpt2])
def test_more_padding_does_not_change_loss_or_gradient(tmp_path, kind, make):
    made = trainer(tmp_path, model=make(), critic_kind=kind, entropy_coef=0.01)
    batch = rollout(made)
    _moved(made)
    plain = gradients(made, [batch])
    padded = gradients(made, [_repadded(batch, 5, 3, tokenizer().pad_token_id)])
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-4)
    assert made._compute_loss(made.model, batch).item() == pytest.approx(
        made._compute_loss(made.model, _repadded(batch, 5, 3, tokenizer().pad_token_id)).item(), abs=1e-5
    )


def test_pad_equal_to_eos_gives_the_same_rollout_and_gradient(tmp_path):
    found = []
    for shared in (False, True):
        tokens = tokenizer()
        if shared:
            tokens.pad_token = tokens.eos_token
        made = trainer(tmp_path, model=policy(tokens=tokenizer()), tokens=tokens, max_completion_length=30)
        # A policy that ends about half of its completions.
        with torch.no_grad():
            made.model.lm_head.weight[tokens.eos_token_id] += made.model.lm_head.weight.abs().mean()
            made.model.lm_head.weight *= 4
        batch = rollout(made)
        ended = (batch["completion_mask"].sum(1) < batch["completion_mask"].shape[1]).float().mean()
        found.append((batch, gradients(_moved(made), [batch]), ended))
    (first, plain, ended), (second, shared_grads, _) = found
    assert ended > 0  # some rows are padded, or nothing is shown
    for key in ("completion_mask", "advantages", "returns", "old_values", "states"):
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-5, msg=key)
    torch.testing.assert_close(plain, shared_grads, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_eight_micro_batches_of_one_equal_one_of_eight(tmp_path, kind, kl_in):
    settings = {
        "critic_kind": kind, "entropy_coef": 0.01, "kl_in": kl_in, "kl_estimator": "k3" if kl_in == "loss" else "k1",
        "max_completion_length": 30,
    }  # fmt: skip
    whole = trainer(tmp_path, per_device_train_batch_size=8, **settings)
    parts = trainer(
        tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8, steps_per_generation=8, **settings
    )
    for made in (whole, parts):
        with torch.no_grad():
            made.model.lm_head.weight *= 4  # completions of different lengths
    batch = rollout(whole)
    parts.model.train()
    parts.current_gradient_accumulation_steps = 8
    together = gradients(_moved(whole), [batch])
    apart = gradients(_moved(parts), split_tensor_dict(batch, 8))
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [policy, gpt2])
def test_scoring_a_rollout_gives_the_probabilities_it_was_drawn_with(tmp_path, make):
    made = trainer(tmp_path, model=make(), temperature=0.7)
    batch = rollout(made)
    for row in range(4):  # each alone, without any padding
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0]
        completion = batch["completion_ids"][row][batch["completion_mask"][row] > 0]
        with torch.no_grad():
            logits = made.model(input_ids=torch.cat([prompt, completion])[None]).logits[0]
        logps = (logits[len(prompt) - 1 : -1] / 0.7).log_softmax(-1).gather(1, completion[:, None]).squeeze(1)
        torch.testing.assert_close(batch["old_per_token_logps"][row, : len(completion)], logps, atol=1e-5, rtol=1e-5)


def test_a_completion_that_nothing_can_score_takes_no_part(tmp_path):
    def some(completions, **_):
        return [None if row % 2 else score for row, score in enumerate(sevens(completions))]

    made = trainer(tmp_path, reward_funcs=some)
    batch = rollout(made)
    assert batch["advantages"][1::2].abs().sum() == 0 and batch["states"][1::2].sum() == 0
    assert batch["num_items_in_batch"] == batch["completion_mask"][::2].sum()
    odd = {key: value[1::2] if value.ndim else value for key, value in batch.items()}
    assert gradients(_moved(made), [odd]).abs().max() == 0


def test_the_penalty_for_a_missing_stop_token_and_normalised_scores(tmp_path):
    plain, fined = (
        trainer(tmp_path, critic_kind="none", lam=1.0, whiten_advantages=False, beta=0.0, missing_eos_penalty=fine)
        for fine in (None, 2.0)
    )
    first, second = rollout(plain), rollout(fined)
    ended = (first["completion_ids"] == tokenizer().eos_token_id).any(1)
    assert not ended.all()
    torch.testing.assert_close(first["advantages"][:, 0] - second["advantages"][:, 0], 2.0 * ~ended)

    made = trainer(
        tmp_path, critic_kind="none", lam=1.0, whiten_advantages=False, beta=0.0, normalize_scores=True, score_clip=1.5
    )
    scores = rollout(made)["advantages"][:, 0]
    assert made.running_scores.count == 8
    running = made.running_scores
    expected = ((first["advantages"][:, 0] - running.mean) / running.std).clamp(-1.5, 1.5)
    torch.testing.assert_close(scores, expected)


def test_critic_warm_up_leaves_the_policy_alone(tmp_path):
    for kind in ("model", "head", "trunk"):
        made = trainer(tmp_path, critic_kind=kind, critic_warmup_steps=2, max_steps=2, beta=0.0)
        before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
        made.train()
        moved = {name for name, p in made.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved and all(name.startswith("critic.") for name in moved), (kind, moved)


def test_a_rollout_is_given_up_once_the_policy_has_moved_too_far(tmp_path):
    drawn = []

    def counting(completions, **_):
        drawn.append(len(completions))
        return sevens(completions)

    settings = {"num_iterations": 4, "max_steps": 4, "learning_rate": 1e-2}
    trainer(tmp_path, reward_funcs=counting, **settings).train()
    assert len(drawn) == 1  # four epochs over one rollout
    drawn.clear()
    made = trainer(tmp_path, reward_funcs=counting, target_kl=1e-4, **settings)
    made.train()
    assert len(drawn) > 1 and sum(logged(made, "policy/early_stops")) == len(drawn) - 1


def test_each_epoch_over_a_rollout_is_shuffled_anew_and_loses_nothing(tmp_path):
    made = trainer(
        tmp_path, num_iterations=3, steps_per_generation=2, per_device_train_batch_size=4, gradient_accumulation_steps=1
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    epochs = []
    for step in range(6):
        made._step = step
        batch = made._prepare_inputs([made.train_dataset[n] for n in range(8)])
        epochs.append([tuple(row) for row in torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1).tolist()])
    orders = [epochs[2 * n] + epochs[2 * n + 1] for n in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] and orders[1] != orders[2]


def test_an_evaluation_judges_without_learning_from_it(tmp_path):
    made = trainer(tmp_path, normalize_scores=True, kl_target=1.0, max_steps=1, per_device_eval_batch_size=8)
    made.train()
    count, coefficient = made.running_scores.count, made.kl_controller.coefficient
    found = made.evaluate(made.train_dataset.select(range(16)))
    logs = {key: value for line in made.state.log_history for key, value in line.items()}
    assert found["eval_loss"] == pytest.approx(found["eval_loss"]) and logs["eval_reward"] > 0
    assert logs["eval_objective/kl"] != 0 and "eval_value/explained_variance" in logs
    assert (made.running_scores.count, made.kl_controller.coefficient) == (count, coefficient)


def test_a_config_that_contradicts_itself_is_refused(tmp_path):
    for settings, message in (
        ({"kl_in": "loss"}, "kl_estimator"),
        ({"lam": 1.5}, "lam=1.5"),
        ({"loss_type": "grpo"}, "token"),
        ({"scale_rewards": "batch"}, "scale_rewards"),
        ({"sync_ref_model": True}, "sync_ref_model"),
        ({"kl_target": 6.0, "beta": 0.0}, "beta"),
        ({"critic_kind": "none", "bootstrap_truncated": True}, "critic"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, **settings)
