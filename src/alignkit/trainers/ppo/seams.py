"""Every name of TRL and transformers that is not public and that PPO builds on; a contract test holds each of them.

When a release moves one, tests/methods/test_ppo_contract.py says which.
"""

from __future__ import annotations

# Methods of GRPOTrainer that PPOTrainer overrides or calls -> the parameters that it relies on, in their order.
GRPO_METHODS = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_compute_loss": ("self", "model", "inputs"),
    "_prepare_inputs": ("self", "generation_batch"),
    "_get_per_token_logps_and_entropies": ("self", "model", "input_ids", "attention_mask", "logits_to_keep"),
}

# Attributes that GRPOTrainer sets and PPOTrainer reads or sets.
GRPO_ATTRIBUTES = (
    "_step",
    "_buffered_inputs",
    "_metrics",
    "_entropy_bonus_enabled",
    "_tokenizer",
    "beta",
    "ref_model",
    "reward_funcs",
    "reward_weights",
    "eos_token_ids",
    "num_iterations",
    "use_adaptive_entropy",
)

# Attributes that a transformers.Trainer sets while it trains.
TRAINER_ATTRIBUTES = ("current_gradient_accumulation_steps",)

# Methods of transformers.Trainer that PPOTrainer overrides -> their parameters.
TRAINER_METHODS = {
    "_save": ("self", "output_dir", "state_dict"),
    "_load_from_checkpoint": ("self", "resume_from_checkpoint", "model"),
    "_load_best_model": ("self",),
    "_clip_grad_norm": ("self", "model"),
    "create_optimizer": ("self", "model"),
}

# Functions and classes of TRL that are imported.
TRL_NAMES = {
    "trl.trainer.utils": ("FusedCausalLMOutput", "add_fused_lm_head", "disable_dropout_in_model"),
    "trl.models": ("prepare_deepspeed", "prepare_fsdp"),
    "trl.models.utils": ("disable_gradient_checkpointing",),
}

# Keys of the batch that `_generate_and_score_completions` returns.
BATCH_KEYS = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "num_items_in_batch",
)
BATCH_KEYS_WITH_REFERENCE = (*BATCH_KEYS, "ref_per_token_logps")

# Attributes of PreTrainedModel.
MODEL_ATTRIBUTES = ("_keys_to_ignore_on_save",)
