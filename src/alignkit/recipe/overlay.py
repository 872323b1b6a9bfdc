"""Bounds and choices that upstream has but does not declare, so that `learning_rate: -1` is caught before it is loaded.

Kept by hand next to the generated snapshot. A bound stands here only where every smaller (or larger) value is an error
or nonsense upstream; what is merely unwise stays legal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """What a field accepts besides its type: numbers within bounds, one of the choices; `type` replaces upstream's."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()
    type: str | None = None
    pattern: str | None = None


AT_LEAST_0 = Bound(ge=0)
AT_LEAST_1 = Bound(ge=1)
ABOVE_0 = Bound(gt=0)
SHARE = Bound(ge=0, le=1)
BELOW_1 = Bound(ge=0, lt=1)

DTYPES = ("float32", "bfloat16", "float16")
GENERATION_MODES = Bound(choices=("server", "colocate"))

TRAINING = {
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "num_train_epochs": ABOVE_0,
    "max_steps": Bound(ge=-1),
    "learning_rate": AT_LEAST_0,
    "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "adam_beta1": BELOW_1,
    "adam_beta2": BELOW_1,
    "adam_epsilon": AT_LEAST_0,
    "gradient_accumulation_steps": AT_LEAST_1,
    "max_grad_norm": AT_LEAST_0,
    "label_smoothing_factor": BELOW_1,
    "neftune_noise_alpha": AT_LEAST_0,
    "torch_empty_cache_steps": AT_LEAST_1,
    "logging_steps": ABOVE_0,
    "save_steps": ABOVE_0,
    "eval_steps": ABOVE_0,
    "eval_delay": AT_LEAST_0,
    "eval_accumulation_steps": AT_LEAST_1,
    "save_total_limit": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "dataloader_prefetch_factor": AT_LEAST_1,
    "ddp_timeout": AT_LEAST_1,
    "include_num_input_tokens_seen": Bound(choices=("all", "non_padding", "no")),
    # The trl configs' own
    "max_length": AT_LEAST_1,
    "dataset_num_proc": AT_LEAST_1,
    "pad_to_multiple_of": Bound(ge=1, choices=("auto",)),
    "router_aux_loss_coef": AT_LEAST_0,
}

SYNCED_REFERENCE = {"ref_model_mixup_alpha": SHARE, "ref_model_sync_steps": AT_LEAST_1}

DPO = {
    "loss_type": Bound(
        type="str|list[str]",
        choices=(
            *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
            *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
        ),
    ),
    "f_divergence_type": Bound(choices=("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")),
    "beta": AT_LEAST_0,
    "label_smoothing": BELOW_1,
    "ld_alpha": SHARE,
    "precompute_ref_batch_size": AT_LEAST_1,
    **SYNCED_REFERENCE,
}

ONLINE = {
    "num_generations": AT_LEAST_1,
    "num_generations_eval": AT_LEAST_1,
    "max_completion_length": AT_LEAST_1,
    "generation_batch_size": AT_LEAST_1,
    "steps_per_generation": AT_LEAST_1,
    "temperature": ABOVE_0,
    "top_p": Bound(gt=0, le=1),
    "top_k": AT_LEAST_0,
    "min_p": SHARE,
    "repetition_penalty": ABOVE_0,
    "beta": AT_LEAST_0,
    "num_iterations": AT_LEAST_1,
    "epsilon": AT_LEAST_0,
    "epsilon_high": AT_LEAST_0,
    "vllm_mode": GENERATION_MODES,
    "vllm_model_impl": Bound(choices=("vllm", "transformers")),
    "vllm_gpu_memory_utilization": Bound(gt=0, le=1),
    "vllm_tensor_parallel_size": AT_LEAST_1,
    **SYNCED_REFERENCE,
}

GRPO = {
    **ONLINE,
    "loss_type": Bound(choices=("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")),
    "scale_rewards": Bound(type="bool|str", choices=("group", "batch", "none")),
    "importance_sampling_level": Bound(choices=("token", "sequence")),
    "multi_objective_aggregation": Bound(choices=("sum_then_normalize", "normalize_then_sum")),
    "vllm_importance_sampling_mode": Bound(
        choices=("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    ),
    "top_entropy_quantile": SHARE,
    "delta": ABOVE_0,
}

PPO = {
    "gamma": SHARE,
    "lam": SHARE,
    "critic_lam": SHARE,
    "kl_target": ABOVE_0,
    "kl_horizon": AT_LEAST_1,
    "score_clip": ABOVE_0,
    "critic_learning_rate": AT_LEAST_0,
    "critic_max_grad_norm": ABOVE_0,
    "critic_warmup_steps": AT_LEAST_0,
    "vf_coef": AT_LEAST_0,
    "cliprange_value": ABOVE_0,
    "target_kl": ABOVE_0,
}

PEFT = {
    "r": AT_LEAST_1,
    "lora_alpha": ABOVE_0,
    "lora_dropout": BELOW_1,
    "vera_dropout": BELOW_1,
    "rank_dropout": BELOW_1,
    "module_dropout": BELOW_1,
    "alpha": ABOVE_0,
    "target_r": AT_LEAST_1,
    "init_r": AT_LEAST_1,
}

LORA = {
    # `pissa_niter_16` and its kin carry a number in their name.
    "init_lora_weights": Bound(
        choices=("gaussian", "eva", "olora", "pissa", "corda", "loftq", "lora_ga", "orthogonal", "mica"),
        pattern=r"^pissa_niter_\d+$",
    ),
}

QUANTIZATION = {
    "bnb_4bit_quant_type": Bound(choices=("fp4", "nf4")),
    "bnb_4bit_compute_dtype": Bound(choices=DTYPES),
    "bnb_4bit_quant_storage": Bound(choices=(*DTYPES, "float64", "int8", "uint8")),
    "llm_int8_threshold": AT_LEAST_0,
}

GENERATION = {
    "max_length": AT_LEAST_1,
    "max_new_tokens": AT_LEAST_1,
    "min_length": AT_LEAST_0,
    "min_new_tokens": AT_LEAST_0,
    "max_time": ABOVE_0,
    "num_beams": AT_LEAST_1,
    "num_return_sequences": AT_LEAST_1,
    "temperature": ABOVE_0,
    "top_k": AT_LEAST_0,
    "top_p": Bound(gt=0, le=1),
    "min_p": SHARE,
    "typical_p": Bound(gt=0, le=1),
    "repetition_penalty": ABOVE_0,
    "no_repeat_ngram_size": AT_LEAST_0,
    "early_stopping": Bound(choices=("never",)),
    "eos_token_id": Bound(type="int|list[int]|null"),
}

# class -> field -> what it accepts; a class's own line wins over its base's.
OVERLAY: dict[str, dict[str, Bound]] = {
    "TrainingArguments": TRAINING,
    "DPOConfig": DPO,
    "KTOConfig": {"beta": AT_LEAST_0, "precompute_ref_batch_size": AT_LEAST_1, **SYNCED_REFERENCE},
    "GRPOConfig": GRPO,
    "RLOOConfig": ONLINE,
    "PPOConfig": PPO,
    "PeftConfig": PEFT,
    "LoraConfig": LORA,
    "AdaLoraConfig": LORA,
    "OFTConfig": {"r": AT_LEAST_0},  # 0: the block size is given instead
    "BitsAndBytesConfig": QUANTIZATION,
    "GenerationConfig": GENERATION,
}
