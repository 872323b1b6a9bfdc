"""What the tests of classifiers share: tiny random encoders with real tokenizers, and made rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT = (
    "the a in of to and was is on at good bad great awful fine poor red green blue cat dog bird house car tree Ada "
    "Alan Grace Paris Oslo Lima lives in met New York Cape Town hopper byron free win cash call now hello love home "
    "late"
)
WORDS = TEXT.split()


def word_tokenizer(folder: Path, max_length: int = 64) -> Any:
    """A BERT tokenizer with a small vocabulary of whole words, letters and Devanagari, Hebrew and emoji pieces."""
    from transformers import BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'मज़ाשלום😀"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*(w.lower() for w in WORDS), *pieces])]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=True, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_bert(folder: Path) -> Path:
    """A folder with a random BERT trunk (no head) of two layers and the tokenizer of `word_tokenizer`."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = word_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def recipe(model: Path, data: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A classify recipe that trains a few steps."""
    training = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_length": 32}
    return {
        "method": "classify",
        "output_dir": "run",
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": data,
        **{name: value for name, value in sections.items() if name != "training"},
        "training": {**training, "logging_steps": 1, **sections.get("training", {})},
    }


def texts(count: int = 40) -> list[dict[str, Any]]:
    """Texts whose colour says their label, in turn."""
    colours = ("red", "green", "blue")
    return [{"text": f"the {WORDS[i % 20]} was {colours[i % 3]} {i}", "label": colours[i % 3]} for i in range(count)]


def sentences(count: int = 40) -> list[dict[str, Any]]:
    """Tagged sentences (IOB2)."""
    found = []
    for i in range(count):
        person, place = ("Ada", "Alan", "Grace")[i % 3], ("Paris", "Oslo", "Lima")[i % 3]
        row = (("New", "York"), ("B-LOC", "I-LOC")) if i % 4 == 0 else ((place,), ("B-LOC",))
        words = [person, "lives", "in", *row[0], str(i)]
        found.append({"tokens": words, "tags": ["B-PER", "O", "O", *row[1], "O"]})
    return found
