"""Upstream fields that alignkit owns elsewhere, and words of other tools: refused by name, with the place to go."""

from __future__ import annotations

_DEVICE = "it is derived from the device and `model.dtype`"
_LAUNCH = "several processes are set up by `--accelerate` and a file of accelerate_configs/"
_LOSS_ON = "say it with `data.loss_on: assistant`, `completion` or `all`"

TRAINING = {
    "output_dir": "it belongs at the top of the recipe: `output_dir`",
    "seed": "it belongs at the top of the recipe: `seed`",
    "trust_remote_code": "it belongs in `model.trust_remote_code`",
    "model_init_kwargs": "its keys belong in `model` (`dtype`, `attn_implementation`, `revision`)",
    "chat_template_path": "it belongs in `model.chat_template_path`",
    "chat_template_kwargs": "give them in the data, as a column `chat_template_kwargs`",
    "dataset_text_field": "map the column in the source: `columns: {text: THEIR_NAME}`",
    "dataset_kwargs": "alignkit prepares the data itself; see `data`",
    "assistant_only_loss": _LOSS_ON,
    "completion_only_loss": _LOSS_ON,
    "reward_weights": "each reward carries its own `weight` in `rewards`",
    "bf16": _DEVICE,
    "fp16": _DEVICE,
    "use_cpu": _DEVICE,
    "bf16_full_eval": _DEVICE,
    "fp16_full_eval": _DEVICE,
    "local_rank": _LAUNCH,
    "deepspeed": _LAUNCH,
    "fsdp": _LAUNCH,
    "fsdp_config": _LAUNCH,
    "parallelism_config": _LAUNCH,
    "do_train": "the command says what is done",
    "do_eval": "say when with `eval_strategy`",
    "do_predict": "say what is evaluated in `evaluation`",
    "resume_from_checkpoint": "go on with `--resume`",
    "hub_token": "a recipe is no place for a secret; log in with `hf auth login` or set HF_TOKEN",
    "disable_tqdm": "alignkit shows its own progress line",
    "remove_unused_columns": "alignkit hands over exactly the columns that the trainer reads",
    "length_column_name": "alignkit counts the lengths itself",
    # The tokenizer is settled before any trainer sees it.
    "pad_token": "the pad token is the tokenizer's; give a tokenizer that has it in `model.tokenizer_name_or_path`",
    "eos_token": "the stop token is the tokenizer's; give a tokenizer that has it in `model.tokenizer_name_or_path`",
}

# What TRL's own preparation of SFT data reads, which alignkit's replaces.
SFT = {
    "shuffle_dataset": "the order of the rows is `train_sampling_strategy`'s",
    "truncation_mode": "rows that are too long lose their end, and are counted",
}

# GRPO's own ways, which PPO inherits the fields of and has no use for: PPOConfig refuses other values than the default.
_SURROGATE = "PPO's loss is the clipped surrogate, averaged over the tokens of the global batch"
NOT_IN_PPO = {
    "loss_type": _SURROGATE,
    "scale_rewards": "advantages come from GAE, not from a group; see `whiten_advantages` and `whiten_rewards`",
    "multi_objective_aggregation": "rewards are weighted and added up",
    "importance_sampling_level": "PPO's ratio is a token's",
    "off_policy_mask_threshold": "see `target_kl`",
    "use_bias_correction_kl": "see `kl_estimator` and `kl_in`",
    "sync_ref_model": "the reference stays what training started from",
    "ref_model_mixup_alpha": "the reference stays what training started from",
    "ref_model_sync_steps": "the reference stays what training started from",
    **dict.fromkeys(
        (
            *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos"),
            *("vespo_k_neg", "vespo_lambda_neg"),
        ),
        _SURROGATE,
    ),
}
CRITIC = {
    "critic_kind": "it belongs in `critic.kind`",
    "critic_layers": "it belongs in `critic.layers`",
    "critic_width": "it belongs in `critic.width`",
    "critic_detached": "it belongs in `critic.detached`",
}

ADAPTER = {
    "task_type": "it follows from the method",
    "inference_mode": "it is always off in training",
    "auto_mapping": "peft fills it in",
    "peft_version": "peft fills it in",
    "base_model_name_or_path": "it belongs in `model.model_name_or_path`",
    "revision": "it belongs in `model.revision`",
}

GENERATION = dict.fromkeys(
    (
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "is_assistant",
    ),
    "alignkit reads the generated text only",
)

# upstream class -> refused field -> where it belongs
REFUSED: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ("TrainingArguments", "DPOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig", "KTOConfig"), TRAINING
    ),
    "SFTConfig": {**TRAINING, **SFT},
    "PPOConfig": {**TRAINING, **NOT_IN_PPO, **CRITIC},
    "BitsAndBytesConfig": {},
    "GenerationConfig": GENERATION,
}

# Words of other tools and of older versions -> what to write instead, as a full path of the recipe.
ALIASES = {
    # TRL's former PPOConfig
    "kl_coef": "training.beta",
    "cliprange": "training.epsilon",
    "num_ppo_epochs": "training.num_iterations",
    "response_length": "training.max_completion_length",
    "reward_model_path": "rewards (with `model: PATH`)",
    "value_model": "critic",
    "sft_model_path": "model.model_name_or_path",
    "warmup_ratio": "training.warmup_steps (below 1 it is a share of all steps)",
    "group_by_length": "training.train_sampling_strategy: group_by_length",
    "evaluation_strategy": "training.eval_strategy",
    "logging_dir": "output_dir (trackers log into the run folder)",
    "max_seq_length": "training.max_length",
    "max_prompt_length": "training.max_length",
    "cutoff_len": "training.max_length",
    "sequence_len": "training.max_length",
    "sample_packing": "training.packing",
    "batch_size": "training.global_batch_size",
    "micro_batch_size": "training.per_device_train_batch_size",
    "train_batch_size": "training.global_batch_size",
    "eval_batch_size": "training.per_device_eval_batch_size",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler_type",
    "optimizer": "training.optim",
    "epochs": "training.num_train_epochs",
    "num_epochs": "training.num_train_epochs",
    "warmup": "training.warmup_steps",
    "no_cuda": "model.dtype (the device is chosen by itself; hide GPUs with CUDA_VISIBLE_DEVICES)",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype: bfloat16",
    "fp16": "model.dtype: float16",
    "use_flash_attention_2": "model.attn_implementation: flash_attention_2",
    "flash_attention": "model.attn_implementation: flash_attention_2",
    "base_model": "model.model_name_or_path",
    "model_name": "model.model_name_or_path",
    "name_or_path": "model.model_name_or_path",
    "tokenizer_name": "model.tokenizer_name_or_path",
    "tokenizer": "model.tokenizer_name_or_path",
    "chat_template": "model.chat_template_path",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "rank": "adapter.r",
    "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules",
    "lora": "adapter",
    "peft": "adapter",
    "peft_config": "adapter",
    "use_peft": "adapter",
    "load_in_4bit": "quantization.load_in_4bit",
    "load_in_8bit": "quantization.load_in_8bit",
    "datasets": "data.train",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "train_file": "data.train",
    "val_set_size": "data.eval_fraction",
    "test_size": "data.eval_fraction",
    "validation": "data.eval",
    "train_on_inputs": "data.loss_on: all",
    "rl": "method",
    "stage": "method",
    "early_stopping": "training.early_stopping_patience",
}


def refused(name: str) -> dict[str, str]:
    """The fields of an upstream class that a recipe gives elsewhere -> where. Classes not listed are adapters'."""
    return REFUSED.get(name, ADAPTER)
