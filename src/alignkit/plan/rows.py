"""The rows of a plan: the recipe's own where they are at hand and small, else as long as the recipe allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.methods.base import Method, Stage
from alignkit.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from alignkit.data import Prepared

MOST_BYTES = 32 * 2**20
"""Data files up to this size are read for their lengths; larger ones would take longer than the plan."""
USUAL_LENGTH = 1024
WORD, OTHER = "word", "other"
_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' + eos_token + ' ' }}{% endfor %}"


def own_rows(recipe: Recipe, method: Method, stage: Stage) -> Prepared | None:
    """The recipe's rows as training would see them, or None where they are not here, or large."""
    if recipe.data is None or recipe.data.streaming:
        return None
    size = 0
    for source in recipe.data.train:
        if source.path is None:
            continue
        path = recipe.base_dir / Path(source.path).expanduser()
        if not path.is_file():
            return None
        size += path.stat().st_size
    if size > MOST_BYTES:
        return None
    return method.prepare(stage)


def longest_rows(recipe: Recipe, method: Method, stage: Stage, length: int, folder: Path) -> Prepared:
    """Rows of `length` tokens, of the method's first shape, through the method's own preparation."""
    from alignkit.recipe import DataSection, Source

    training = recipe.training.resolved()
    steps = training.get("steps_per_generation") or training.get("gradient_accumulation_steps") or 1
    known = (training.get("global_batch_size"), training.get("generation_batch_size"))
    count = max(2, int(training["per_device_train_batch_size"]) * int(steps), *(number or 0 for number in known))
    file = folder / f"rows-{method.shapes[0]}-{length}.jsonl"
    shape = "tagged" if getattr(recipe, "task", None) == "token" else method.shapes[0]
    labels = getattr(getattr(recipe, "labels", None), "names", None) or ["O", "B-X"]
    lines = [json.dumps(_example(shape, length, index, labels)) for index in range(count)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    section = DataSection(train=[Source(path=str(file))], loss_on=recipe.data.loss_on if recipe.data else None)
    whole = recipe.model_copy(update={"data": section})
    before, stage.recipe = stage.recipe, whole
    try:
        return method.prepare(stage)
    except UserError:
        stage.recipe = whole.model_copy(update={"data": section.model_copy(update={"loss_on": None})})
        return method.prepare(stage)
    finally:
        stage.recipe = before


def _example(shape: str, length: int, index: int, labels: list[str]) -> dict[str, Any]:
    """An example that is longer than a row: it is cut to one. Numbers keep examples apart."""
    half, whole = f"{WORD} " * (length // 2 - 2), f"{WORD} " * length
    if shape == "language_modeling":
        return {"text": f"{index} {whole}"}
    if shape == "prompt_completion":
        return {"prompt": f"{index} {half}", "completion": whole}
    if shape == "preference":
        return {"prompt": f"{index} {half}", "chosen": whole, "rejected": f"{OTHER} {whole}"}
    if shape == "unpaired_preference":
        return {"prompt": f"{index} {half}", "completion": f"{OTHER} " * (index % 2) + whole, "label": index % 2 == 0}
    if shape == "tagged":
        return {"tokens": [WORD] * length, "tags": [labels[place % len(labels)] for place in range(length)]}
    if shape == "labelled":
        return {"text": f"{index} {whole}", "label": labels[index % len(labels)]}
    return {"prompt": f"{index} {half}", "answer": "1"}


def row_length(recipe: Recipe, config: PreTrainedConfig) -> int:
    """Tokens of the longest row: `max_length`, or what the model takes."""
    wanted = recipe.training.resolved().get("max_length")
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or USUAL_LENGTH)
    return int(wanted) if wanted else min(context, USUAL_LENGTH)


def stand_in(config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """A tokenizer of one token a word, for models whose own is not at hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", "<unk>", WORD, OTHER]
    words = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    size = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 10**6)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", model_max_length=size, chat_template=_TEMPLATE,
    )  # fmt: skip
