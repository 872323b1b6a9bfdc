"""Tokenizers: the packaged one, where a recipe's comes from, and how its special tokens and template are settled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alignkit.errors import UserError
from alignkit.model_folders import TOKENIZERS
from alignkit.models import build_tokenizer, stop_token_ids
from alignkit.recipe import Recipe

CHARACTERS = TOKENIZERS / "characters"
CHAT = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "12+34="},
    {"role": "assistant", "content": "46"},
    {"role": "user", "content": "1+1="},
    {"role": "assistant", "content": "2"},
]


def recipe_for(**model: Any) -> Recipe:
    return Recipe.model_validate({"method": "sft", "output_dir": "unused", "model": model})


@pytest.fixture(scope="module")
def characters() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(CHARACTERS)


@pytest.mark.parametrize(
    "text",
    ["12+34= 46\n", "".join(map(chr, range(32, 127))), "two  blanks , 'quotes' it 's\n\n\ttab", "<not special> </s"],
)
def test_characters_round_trip(characters: PreTrainedTokenizerFast, text: str) -> None:
    ids = characters(text)["input_ids"]
    assert ids[0] == characters.bos_token_id and len(ids) == len(text) + 1
    assert characters.decode(ids[1:]) == text
    assert characters.unk_token_id not in ids


def test_characters_outside_the_vocabulary(characters: PreTrainedTokenizerFast) -> None:
    assert characters("é", add_special_tokens=False)["input_ids"] == [characters.unk_token_id]


def test_characters_template_masks_answers(characters: PreTrainedTokenizerFast) -> None:
    found = characters.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = found["input_ids"], found["assistant_masks"]
    assert characters.decode([i for i, kept in zip(ids, mask, strict=True) if kept]) == "46</s>2</s>"
    assert ids.count(characters.bos_token_id) == 1
    prompt = characters.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False)
    assert prompt == "<s><|system|>Add.<|user|>12+34=<|assistant|>"
    whole = characters.apply_chat_template(CHAT, tokenize=False)
    assert whole.startswith(prompt) and whole.endswith("<|user|>1+1=<|assistant|>2</s>")


def test_characters_template_refuses_other_roles(characters: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="not gpt"):
        characters.apply_chat_template([{"role": "gpt", "content": "x"}])


def test_characters_are_what_the_script_writes(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "build_characters_tokenizer.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (CHARACTERS / name).read_bytes()


# Where a tokenizer comes from


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path, **changes: Any) -> Path:
    """A copy of the tokenizer in `folder`, with other settings; None takes one away."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def adapter_on(base: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def test_an_adapter_takes_its_own_or_its_bases(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = saved(characters, tmp_path / "base")
    adapter = adapter_on(base, tmp_path / "adapter")
    assert build_tokenizer(recipe_for(model_name_or_path=str(adapter))).name_or_path == str(base)
    characters.save_pretrained(adapter)
    assert build_tokenizer(recipe_for(model_name_or_path=str(adapter))).name_or_path == str(adapter)


def test_another_start_and_a_run(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    saved(characters, tmp_path / "run" / "model")
    recipe = recipe_for(from_recipe="other.yaml")
    tokenizer = build_tokenizer(recipe, start=tmp_path / "run")
    assert tokenizer.name_or_path == str(tmp_path / "run" / "model")


def test_a_tokenizer_that_cannot_be_read(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = saved(characters, tmp_path / "m")
    (folder / "tokenizer.json").write_text('{"broken": true}')
    with pytest.raises(UserError, match=r"model\.model_name_or_path: .* cannot be loaded") as caught:
        build_tokenizer(recipe_for(model_name_or_path=str(folder)))
    assert "\n" not in str(caught.value)


# Special tokens and templates


def test_a_missing_pad_token_takes_a_spare_one(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    notes: list[str] = []
    folder = saved(characters, tmp_path / "spare", pad_token=None)
    tokenizer = build_tokenizer(recipe_for(model_name_or_path=str(folder)), notes=notes)
    assert tokenizer.pad_token == "<pad>" and tokenizer.padding_side == "right" and "<pad> pads" in notes[0]


def test_without_a_spare_token_eos_pads(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="a")), eos_token="</s>"
    )
    notes: list[str] = []
    tokenizer = build_tokenizer(recipe_for(model_name_or_path=str(saved(bare, tmp_path / "m"))), notes=notes)
    assert tokenizer.pad_token == "</s>" and "masks do not depend on it" in notes[0]


def test_stop_tokens(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    assert stop_token_ids(characters) == [2]
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|tool|>\n{% endfor %}")
    recipe = recipe_for(model_name_or_path=str(saved(characters, tmp_path / "m")), chat_template_path=str(template))
    tokenizer = build_tokenizer(recipe)
    assert tokenizer.chat_template == template.read_text()
    assert stop_token_ids(tokenizer) == [2, tokenizer.convert_tokens_to_ids("<|tool|>")]
    from_folder = recipe_for(model_name_or_path=str(tmp_path / "m"), chat_template_path=str(CHARACTERS))
    assert build_tokenizer(from_folder).chat_template == characters.chat_template


def test_a_broken_template(characters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    recipe = recipe_for(model_name_or_path=str(saved(characters, tmp_path / "m")), chat_template_path=str(template))
    with pytest.raises(UserError, match=r"model\.chat_template_path: .*chat\.jinja:2 is not a valid template"):
        build_tokenizer(recipe)
