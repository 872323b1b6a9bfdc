"""The names of TRL and transformers that PPO builds on and that are not public: when one moves, this says which."""

import importlib
import inspect

import pytest
import torch
from ppo_parts import policy, prompts, rollout, sevens, tokenizer, trainer
from transformers import PreTrainedModel, Trainer
from trl import GRPOTrainer

from alignkit.trainers.ppo import seams


@pytest.mark.parametrize("owner, methods", [(GRPOTrainer, seams.GRPO_METHODS), (Trainer, seams.TRAINER_METHODS)])
def test_methods_take_what_ppo_gives_them(owner, methods):
    for name, parameters in methods.items():
        assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
        found = tuple(inspect.signature(getattr(owner, name)).parameters)[: len(parameters)]
        assert found == parameters, f"{owner.__name__}.{name} takes {found}"


def test_attributes_and_names_are_where_ppo_looks(tmp_path):
    made = trainer(tmp_path)
    for name in seams.GRPO_ATTRIBUTES:
        assert hasattr(made, name), f"GRPOTrainer sets no {name}"
    for module, names in seams.TRL_NAMES.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name} is gone"
    for name in seams.MODEL_ATTRIBUTES:
        assert hasattr(PreTrainedModel, name), f"PreTrainedModel has no {name}"
    source = inspect.getsource(Trainer)
    for name in seams.TRAINER_ATTRIBUTES:
        assert f"self.{name} =" in source, f"Trainer sets no {name}"


def test_a_scored_batch_has_the_keys_that_ppo_reads_and_no_tensor_of_another_shape(tmp_path):
    batch = rollout(trainer(tmp_path))
    missing = set(seams.BATCH_KEYS_WITH_REFERENCE) - set(batch)
    assert not missing
    rows = len(batch["completion_ids"])
    assert all(value.ndim == 0 or len(value) == rows for value in batch.values()), "a batch is shuffled row by row"


def test_upstream_still_takes_advantages_of_single_tokens(tmp_path):
    """The comment in `_compute_loss` that subclasses may give (B, T) advantages is what the loss stands on."""
    made = trainer(tmp_path, critic_kind="none", beta=0.0)
    batch = rollout(made)
    one = dict(batch)
    one["advantages"] = torch.zeros_like(batch["advantages"])
    one["advantages"][0, 1] = 1.0
    loss = made._compute_loss(made.model, one)
    assert loss.item() == pytest.approx(-1 / batch["completion_mask"].sum().item(), rel=1e-4)


def test_every_seam_that_the_trainer_touches_is_listed():
    """A private name of GRPOTrainer or Trainer that a later change starts to use has to be added to seams.py."""
    from alignkit.trainers.ppo import trainer as module

    listed = {*seams.GRPO_METHODS, *seams.GRPO_ATTRIBUTES, *seams.TRAINER_METHODS, *seams.TRAINER_ATTRIBUTES}
    upstream = inspect.getsource(GRPOTrainer) + inspect.getsource(Trainer)
    own = {name for name in vars(module.PPOTrainer) if name not in vars(GRPOTrainer) and name not in vars(Trainer)}
    import ast

    used = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.attr.startswith("_")
    }
    private = {name for name in used - own if f"self.{name}" in upstream or f"def {name}(" in upstream}
    assert private <= listed, f"not listed in seams.py: {sorted(private - listed)}"


def test_reward_models_and_functions_are_called_as_upstream_calls_them(tmp_path):
    """One dense function, one model: TRL's `_calculate_rewards` runs both, and weights them."""
    from transformers import LlamaForSequenceClassification

    tokens = tokenizer()
    config = policy().config
    config.num_labels = 1
    torch.manual_seed(0)
    scorer = LlamaForSequenceClassification(config)

    def dense(completion_ids, **_):
        return [[0.5] * len(ids) for ids in completion_ids]

    from alignkit.trainers.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        str(tmp_path), reward_weights=[1.0, 2.0, 3.0], per_device_train_batch_size=4, use_cpu=True, bf16=False,
        report_to="none", critic_kind="none", lam=1.0, whiten_advantages=False, beta=0.0, gradient_checkpointing=False,
        max_completion_length=4,
    )  # fmt: skip
    made = PPOTrainer(
        policy(), [sevens, dense, scorer], args, train_dataset=prompts(), processing_class=tokens,
        reward_processing_classes=[None, None, tokens],
    )  # fmt: skip
    batch = rollout(made, 4)
    texts = tokens.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    from_model = made.rewards_per_function[:, 2]
    lengths = batch["completion_mask"].sum(1)
    total = torch.tensor(sevens(texts)) + 2 * 0.5 * lengths + 3 * from_model
    torch.testing.assert_close(batch["advantages"][:, 0], total)
