"""What the tests of PPO share: a tiny policy, prompts, rewards, and a trainer over them."""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import alignkit
from alignkit.trainers.ppo import PPOConfig, PPOTrainer


def tokenizer():
    return AutoTokenizer.from_pretrained(Path(alignkit.__file__).parent / "assets" / "tokenizers" / "characters")


def policy(seed=0, tokens=None, hidden_size=32):
    tokens = tokens or tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=hidden_size, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2(tokens=None):
    """A model with learned positions: wrong position ids change what it computes."""
    tokens = tokens or tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokens), n_embd=32, n_layer=2, n_head=2, n_positions=64, pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def prompts(rows=64):
    return Dataset.from_dict({"prompt": [f"{n % 97}+{n % 7}=" for n in range(rows)]})


def sevens(completions, **_):
    """A reward that any policy earns a little of."""
    return [text.count("7") + 0.1 * len(text) for text in completions]


def trainer(folder, model=None, reward_funcs=None, dataset=None, tokens=None, critic=None, **settings):
    settings = {
        "per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "max_completion_length": 6,
        "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "save_strategy": "no", "disable_tqdm": True, "num_iterations": 1, "seed": 3,
    } | settings  # fmt: skip
    return PPOTrainer(
        policy() if model is None else model,
        reward_funcs=sevens if reward_funcs is None else reward_funcs,
        args=PPOConfig(str(folder), **settings),
        train_dataset=prompts() if dataset is None else dataset,
        processing_class=tokens or tokenizer(),
        critic=critic,
    )


def rollout(made, rows=8):
    """One scored batch, as training would get it; the same completions of the same policy each time."""
    torch.manual_seed(5)
    made.model.train()
    made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
    return made._generate_and_score_completions([made.train_dataset[n] for n in range(rows)])


def gradients(made, batches):
    """The gradient of the summed losses of `batches`, over policy and critic, as one vector."""
    made.model.zero_grad()
    for batch in batches:
        made._compute_loss(made.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def logged(made, key):
    return [line[key] for line in made.state.log_history if key in line]


def weights(made):
    return {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
