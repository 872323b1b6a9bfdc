"""The names of TRL's that `trainers.online` stands on: which of them moved, when TRL does."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer import grpo_trainer, rloo_trainer
from trl.trainer.utils import RepeatSampler

METHODS = {
    "_generate": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_tokenize_prompts": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_get_train_sampler": ["self", "dataset"],
    "_log_completion_extra": ["self", "column", "values"],
    "_log_metric": ["self", "name", "value"],
}
ATTRIBUTES = ("_step", "_buffered_inputs", "_metrics", "generation_config", "generation_kwargs", "shuffle_dataset",
              "use_transformers_continuous_batching", "num_iterations", "num_generations", "ref_model", "beta",
              "temperature", "eos_token_ids")  # fmt: skip


@pytest.mark.parametrize("trainer", [GRPOTrainer, RLOOTrainer])
def test_the_names_are_there(trainer):
    for name, parameters in METHODS.items():
        assert list(inspect.signature(getattr(trainer, name)).parameters) == parameters, name
    turn = list(inspect.signature(trainer._generate_single_turn).parameters)
    assert turn[:4] == ["self", "prompt_ids", "images", "multimodal_fields"]
    source = inspect.getsource(trainer.__init__)
    for name in ATTRIBUTES:
        assert f"self.{name} = " in source, name


def test_the_reference_is_built_by_a_name_that_can_be_replaced():
    for module in (grpo_trainer, rloo_trainer):
        assert "self.ref_model = create_model_from_path(" in inspect.getsource(module)


def test_the_sampler_and_trainers_hooks():
    assert "self.generator.manual_seed(seed)" in inspect.getsource(RepeatSampler.__init__)
    assert list(inspect.signature(Trainer._save_rng_state).parameters) == ["self", "output_dir"]
    assert list(inspect.signature(Trainer._load_optimizer_and_scheduler).parameters) == ["self", "checkpoint"]
