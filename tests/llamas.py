"""A tiny random Llama with the packaged character tokenizer, for the tests that need one in a folder."""

from __future__ import annotations

from pathlib import Path


def tiny_llama(folder: Path, width: int = 32, positions: int = 64) -> Path:
    """Two layers of `width`, and a context of `positions` tokens."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    import alignkit

    tokenizer = AutoTokenizer.from_pretrained(Path(alignkit.__file__).parent / "assets" / "tokenizers" / "characters")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
