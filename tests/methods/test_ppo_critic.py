"""The critic on disk: saved beside the policy, absent from the policy's own files, the same again after a resume."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from ppo_parts import assert_equal_weights, gpt2, policy, prompts, rollout, sevens, tokenizer, trainer, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from alignkit.trainers.ppo import HeadCritic, PPOConfig, PPOTrainer, load_critic, save_critic


def adapted():
    model = policy()
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("make", [policy, adapted])
@pytest.mark.parametrize("kind", ["model", "head", "trunk"])
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(tmp_path, make, kind):
    """Stopped within a rollout that is cut in four and used twice; beta adapts, and scores are normalised."""
    critic = None
    if make is adapted and kind == "model":
        critic = tmp_path / "backbone"
        policy(seed=2).model.save_pretrained(critic)
    settings = {
        "critic_kind": kind, "max_steps": 7, "per_device_train_batch_size": 4, "steps_per_generation": 4,
        "num_iterations": 2, "gradient_accumulation_steps": 2, "kl_target": 1.0, "normalize_scores": True,
        "critic_learning_rate": 3e-3, "critic": critic,
    }  # fmt: skip
    whole = trainer(tmp_path / "whole", make(), save_strategy="steps", save_steps=3, **settings)
    whole.train()
    again = trainer(tmp_path / "again", make(), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert again.state.global_step == 7
    assert_equal_weights(weights(whole), weights(again))
    assert whole.kl_controller.coefficient == again.kl_controller.coefficient != 0.05
    assert whole.running_scores.state_dict() == again.running_scores.state_dict()


@pytest.mark.parametrize("kind", ["model", "head", "trunk"])
def test_the_policy_is_saved_without_its_critic_and_the_critic_beside_it(tmp_path, kind):
    made = trainer(tmp_path, critic_kind=kind, max_steps=2)
    made.train()
    made.save_model(str(tmp_path / "saved"))
    assert not any("critic" in name for name in load_file(tmp_path / "saved" / "model.safetensors"))
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(alone(ids).logits, made.model(ids).logits)

    loaded = load_critic(tmp_path / "saved" / "critic")
    assert_equal_weights(dict(made.critic.named_parameters()), dict(loaded.named_parameters()))
    assert made.critic.value_head.weight.abs().sum() > 0  # it was trained
    on = trainer(tmp_path / "on", model=alone, critic=tmp_path / "saved" / "critic")
    torch.testing.assert_close(rollout(on)["old_values"], rollout(made)["old_values"])


def test_an_adapter_is_saved_without_the_critic_too(tmp_path):
    made = trainer(tmp_path, adapted(), critic_kind="trunk", max_steps=1)
    made.train()
    made.save_model(str(tmp_path / "saved"))
    assert not any("critic" in name for name in load_file(tmp_path / "saved" / "adapter_model.safetensors"))
    assert (tmp_path / "saved" / "critic" / "critic.safetensors").exists()


def test_a_critic_of_its_own_starts_from_the_reward_model_else_from_the_policy(tmp_path):
    tokens = tokenizer()
    config = policy(hidden_size=48, seed=4).config  # another size than the policy's
    config.num_labels = 1
    scorer = LlamaForSequenceClassification(config)
    args = PPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_completion_length=4
    )
    made = PPOTrainer(
        policy(), [scorer], args, train_dataset=prompts(), processing_class=tokens, reward_processing_classes=[tokens]
    )
    assert_equal_weights(dict(made.critic.backbone.named_parameters()), dict(scorer.model.named_parameters()))
    assert made.critic.backbone.norm.weight is not scorer.model.norm.weight
    assert made.critic.value_head.weight.abs().sum() == 0
    plain = trainer(tmp_path)
    assert_equal_weights(dict(plain.critic.backbone.named_parameters()), dict(policy().model.named_parameters()))


def test_any_model_can_be_the_critic_also_of_an_adapter_and_from_a_folder(tmp_path):
    gpt2().save_pretrained(tmp_path / "gpt2")
    made = trainer(tmp_path, adapted(), critic=tmp_path / "gpt2", max_steps=1)
    made.train()
    assert type(made.critic.backbone).__name__ == "GPT2Model"
    made.save_critic(tmp_path / "critic")
    assert type(load_critic(tmp_path / "critic").backbone).__name__ == "GPT2Model"


def test_values_are_of_the_state_before_the_token_wherever_padding_stands(tmp_path):
    """A critic that reads the row's own tokens alone gives the same values in a batch and without padding."""
    for kind in ("model", "trunk", "head"):
        made = trainer(tmp_path, critic_kind=kind)
        torch.manual_seed(0)
        with torch.no_grad():
            made.critic.value_head.weight.normal_()
        batch = rollout(made)
        for row in range(4):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row] > 0]
            ids = torch.cat([prompt, batch["completion_ids"][row][batch["completion_mask"][row] > 0]])[None]
            with torch.no_grad():
                hidden = made.model.model(input_ids=ids).last_hidden_state
                values = made.critic(hidden, ids, torch.ones_like(ids))[0, len(prompt) - 1 :]
            torch.testing.assert_close(batch["old_values"][row, : len(values)], values, atol=1e-5, rtol=1e-4)


def test_a_head_trains_the_backbone_unless_detached_and_a_trunk_never(tmp_path):
    for kind, detached, shared in (("head", False, True), ("head", True, False), ("trunk", False, False)):
        made = trainer(tmp_path, critic_kind=kind, critic_detached=detached, beta=0.0)
        with torch.no_grad():
            made.critic.value_head.weight.fill_(0.1)  # at zero nothing would flow
        batch = rollout(made)
        batch["advantages"] = torch.zeros_like(batch["advantages"])
        made._compute_loss(made.model, batch).backward()
        through = made.model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
        assert through == shared, (kind, detached)


def test_critic_gradients_are_clipped_by_themselves_and_it_has_its_own_rate(tmp_path):
    made = trainer(tmp_path, critic_learning_rate=5e-3, critic_max_grad_norm=0.5, max_grad_norm=0.25)
    optimizer = made.create_optimizer()
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {1e-3, 5e-3}
    apart = {id(p) for group in optimizer.param_groups if group["lr"] == 5e-3 for p in group["params"]}
    assert apart == {id(p) for p in made.critic.parameters()}
    for parameter in made.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    whole = sum(p.numel() for p in made.model.parameters()) ** 0.5
    assert float(made._clip_grad_norm(made.model)) == pytest.approx(whole, rel=1e-5)
    size = sum(p.grad.square().sum() for p in made.critic.parameters()).sqrt()
    others = [p for name, p in made.model.named_parameters() if not name.startswith("critic.")]
    rest = sum(p.grad.square().sum() for p in others).sqrt()
    assert size == pytest.approx(0.5, rel=1e-4) and rest == pytest.approx(0.25, rel=1e-4)


def test_weights_are_streamed_to_a_generation_engine_without_the_critic(tmp_path):
    from alignkit.trainers.ppo.critics import without_critic

    made = trainer(tmp_path)
    with without_critic(made.model):
        assert not any("critic" in name for name, _ in made.model.named_parameters())
    assert any("critic" in name for name, _ in made.model.named_parameters())


def test_a_saved_critic_is_found_equal(tmp_path):
    critic = HeadCritic(16)
    torch.nn.init.normal_(critic.value_head.weight)
    save_critic(critic, tmp_path / "critic")
    assert_equal_weights(critic.state_dict(), load_critic(tmp_path / "critic").state_dict())
    assert sevens(["7"])  # the shared reward is not the sum of nothing
