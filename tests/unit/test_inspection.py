"""`alignkit inspect`: each token and what is trained on, for five families of templates; counts, warnings and pages."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_masking import CHATML, CUSTOM, GEMMA, LLAMA3, MISTRAL, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignkit import api
from alignkit.errors import UserError
from alignkit.inspection import inspect
from alignkit.inspection.gather import Inspection
from alignkit.inspection.page import page
from alignkit.inspection.text import console, print_inspection
from alignkit.inspection.tokens import PART, TokenTexts
from alignkit.inspection.views import Shown

WriteRows = Callable[..., Path]
TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "why"},
    {"role": "assistant", "content": "so"},
]
# What is trained on stands in capitals' place: after "+". One token a word, spaces and line breaks as "_" and "/".
FAMILIES = {
    "chatml": (
        CHATML,
        "<|im_start|> user / hi <|im_end|> / <|im_start|> assistant / +yes +<|im_end|> / "
        "<|im_start|> user / why <|im_end|> / <|im_start|> assistant / +so +<|im_end|> /",
    ),
    "llama 3": (
        LLAMA3,
        "<s> <|start_header_id|> user <|end_header_id|> // hi <|eot_id|> "
        "<|start_header_id|> assistant <|end_header_id|> // +yes +<|eot_id|> "
        "<|start_header_id|> user <|end_header_id|> // why <|eot_id|> "
        "<|start_header_id|> assistant <|end_header_id|> // +so +<|eot_id|>",
    ),
    "mistral": (
        MISTRAL,
        "<s> [INST] _ hi _ [/INST] +_ +yes +</s> [INST] _ why _ [/INST] +_ +so +</s>",
    ),
    "gemma": (
        GEMMA,
        "<s> <start_of_turn> user / hi <end_of_turn> / <start_of_turn> model / +yes +<end_of_turn> / "
        "<start_of_turn> user / why <end_of_turn> / <start_of_turn> model / +so +<end_of_turn> /",
    ),
    "custom, without markers": (
        CUSTOM,
        "Q: _ hi / A: _ +yes +/ Q: _ why / A: _ +so +/ +</s>",
    ),
}


@pytest.fixture
def look(tmp_path: Path, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path]) -> Callable[..., Inspection]:
    """Inspect a recipe over `data`, with a tokenizer of this template."""

    def run(data: dict[str, Any], template: str | None = CHATML, examples: int = 3, **training: Any) -> Inspection:
        tokenizer(template).save_pretrained(tmp_path / "tokenizer")
        model = {**tiny_recipe["model"], "tokenizer_name_or_path": "./tokenizer"}
        recipe = {**tiny_recipe, "model": model, "data": data, "training": {**tiny_recipe["training"], **training}}
        return inspect(api.load_recipe(write_recipe(recipe)), examples)

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_five_families(family: str, look: Callable[..., Inspection], write_jsonl: WriteRows) -> None:
    template, expected = FAMILIES[family]
    write_jsonl([{"messages": TURNS}])
    (shown,) = look({"train": "data.jsonl"}, template, max_length=64).shown
    marks = {" ": "_", "\n": "/", "\n\n": "//"}
    (part,) = shown.parts
    found = ["+" * token.trained + marks.get(token.text, token.text) for token in part.tokens]
    assert found == expected.split()


def test_lines_follow_the_turns(look: Callable[..., Inspection], write_jsonl: WriteRows, capsys: Any) -> None:
    write_jsonl([{"messages": [{"role": "system", "content": "be nice"}, *TURNS[:2]]}])
    print_inspection(look({"train": "data.jsonl"}, max_length=64), console())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("example 1 of 1  data.jsonl:1  20 tokens, 2 trained on")
    assert lines[1:9] == [
        "          │ <|im_start|>·system·↵",
        "          │ be· ·nice·<|im_end|>·↵",
        "          │ <|im_start|>·user·↵",
        "          │ hi·<|im_end|>·↵",
        "          │ <|im_start|>·assistant·↵",
        "  trained ┃ yes·<|im_end|>",
        "          │ ↵",
        "",
    ]


def test_warnings_of_what_a_person_wants_to_know(look: Callable[..., Inspection], write_jsonl: WriteRows) -> None:
    system = {"role": "system", "content": "be nice"}
    write_jsonl([{"messages": TURNS}, {"messages": TURNS}, {"messages": [system, *TURNS[:2]]}], "a.jsonl")
    long = {"role": "assistant", "content": "yes " * 70}
    empty = {"messages": [TURNS[0], {"role": "assistant", "content": ""}]}
    write_jsonl([{"messages": [TURNS[0], long]}, empty], "b.jsonl")
    write_jsonl([{"messages": TURNS}], "c.jsonl")
    found = look({"train": ["a.jsonl", "b.jsonl"], "eval": "c.jsonl"}, max_length=100)
    text = "\n".join(found.warnings)
    assert "train: 1 of 5 (20.0%) of the examples are dropped" in text
    assert "train: 1 of 4 (25.0%) of the examples are cut off at max_length" in text
    assert "train: 1 of 4 (25.0%) of the examples are copies of another" in text
    assert "train: a system text stands in some chats only (a.jsonl: 1 of 3; b.jsonl: 0 of 1)" in text
    assert "train: lengths differ by source: a.jsonl has 23 tokens an example, b.jsonl 100" in text
    assert "eval: 1 of 1 (100.0%) of the examples are in the training set too" in text
    assert len(found.warnings) == 6
    assert found.counts["train"]["sources"][1]["first_dropped"] == {"empty answer": "b.jsonl:2"}


def test_a_doubled_bos_is_told(look: Callable[..., Inspection], write_jsonl: WriteRows) -> None:
    write_jsonl([{"text": "hi <s><s>so"}, {"text": "<s><s>hi"}, {"text": "why"}])
    found = look({"train": "data.jsonl"}, None)
    assert found.warnings == ["train: 1 times <s> stands twice in a row (input_ids)"]  # at the start it was taken out
    assert not look({"train": "data.jsonl"}, None, packing=True, max_length=8).warnings[1:]


def test_packed_rows_are_shown_example_by_example(look: Callable[..., Inspection], write_jsonl: WriteRows) -> None:
    write_jsonl([{"messages": TURNS[:2]}] * 3)
    found = look({"train": "data.jsonl"}, packing=True, max_length=32)
    assert [len(shown.parts[0].tokens) for shown in found.shown] == [12, 12, 12]
    assert found.shown[0].place == "1 of 2 in a packed row of 24 tokens"
    assert sorted(shown.id for shown in found.shown) == ["data.jsonl:1", "data.jsonl:2", "data.jsonl:3"]
    assert found.counts["train"]["packed_rows"] == 2


def test_tags_stand_with_the_first_piece_of_a_word(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], write_jsonl: WriteRows, capsys: Any
) -> None:
    write_jsonl([{"tokens": ["Ann", "is", "in", "Bonn"], "tags": ["B-PER", "O", "O", "B-LOC"]}])
    training = {"max_steps": 1, "max_length": 48}
    recipe = {**tiny_recipe, "method": "classify", "task": "token", "training": training}
    model = {**tiny_recipe["model"], "config": {**tiny_recipe["model"]["config"], "model_type": "llama"}}
    data = {"train": "data.jsonl", "eval": "data.jsonl"}
    found = inspect(api.load_recipe(write_recipe({**recipe, "model": model, "data": data})), 1)
    tokens = [token for token in found.shown[0].parts[0].tokens if not token.special]
    tags = [(token.text.strip(), token.tag, token.trained) for token in tokens if token.text.strip()]
    assert tags[:3] == [("A", "B-PER", True), ("n", None, False), ("n", None, False)]
    assert ("B", "B-LOC", True) in tags and sum(trained for *_, trained in tags) == 4
    print_inspection(found, console())
    assert "A/B-PER·n·n" in capsys.readouterr().out
    assert 'tagged" title=' in page(found)


def test_prompts_come_with_what_rewards_read(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], write_jsonl: WriteRows, capsys: Any
) -> None:
    write_jsonl([{"prompt": [{"role": "user", "content": "1+1="}], "answer": "2", "level": 3}] * 4)
    recipe = {
        **tiny_recipe, "method": "grpo", "data": {"train": "data.jsonl"}, "rewards": [{"name": "exact_match"}],
        "training": {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4},
    }  # fmt: skip
    found = inspect(api.load_recipe(write_recipe(recipe)), 1)
    assert [token.text for token in found.shown[0].parts[0].tokens] == ["<s>", "<|user|>", *"1+1=", "<|assistant|>"]
    assert found.shown[0].columns == {"answer": "2", "level": 3}
    print_inspection(found, console())
    assert "  answer: 2\n" in capsys.readouterr().out


def _unwanted(shown: Shown) -> bool:
    return shown.columns.get("verdict") == "unwanted"


PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "11"}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dpo", {"prompt": "<s> 1 + 1 =", "chosen": "+2 +</s>", "rejected": "+1 +1 +</s>"}),
        ("reward", {"chosen": "<s> 1 + 1 = +2 +</s>", "rejected": "<s> 1 + 1 = +1 +1 +</s>"}),
        ("kto", {"prompt": "<s> 1 + 1 =", "answer": "+2 +</s>"}),
    ],
)
def test_pairs_stand_side_by_side(
    method: str,
    expected: dict[str, str],
    tiny_recipe: dict[str, Any],
    write_recipe: Callable[..., Path],
    write_jsonl: WriteRows,
    capsys: Any,
) -> None:
    write_jsonl([PAIR, {**PAIR, "prompt": "1+2="}])
    training = {"max_steps": 1, "max_length": 48, "per_device_train_batch_size": 2}
    recipe = {**tiny_recipe, "method": method, "data": {"train": "data.jsonl"}, "training": training}
    found = inspect(api.load_recipe(write_recipe(recipe)), 4)
    parts = next(one.parts for one in found.shown if one.id.startswith("data.jsonl:1") and not _unwanted(one))
    assert {part.title: " ".join("+" * one.trained + one.text for one in part.tokens) for part in parts} == expected
    print_inspection(found, console())
    lines = capsys.readouterr().out.splitlines()
    if method == "kto":
        assert sorted(shown.columns["verdict"] for shown in found.shown) == ["unwanted", "unwanted", "wanted", "wanted"]
    else:
        assert any("chosen (" in line and "rejected (" in line for line in lines)
    assert "chosen" not in page(found) or "class=alone" in page(found) or method == "reward"


def test_a_page_holds_the_texts_escaped(look: Callable[..., Inspection], write_jsonl: WriteRows) -> None:
    write_jsonl([{"messages": [{"role": "user", "content": "<b>hi"}, TURNS[1]]}])
    text = page(look({"train": "data.jsonl"}))
    assert "&lt;" in text and "<b>hi" not in text and "<script" not in text
    assert re.search(r'class="piece on"[^>]*><span title="\d+">yes</span>', text)


def test_bytes_of_one_character_stay_together() -> None:
    """Byte-level BPE without merges: every byte is a token, and a decoder alone would show replacement signs."""
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    ids = made("a é🙂\n")["input_ids"]
    assert TokenTexts(made).of(ids) == ["a", " ", "é", PART, "🙂", PART, PART, PART, "\n"]
    assert TokenTexts(made).of(ids[2:3] + ids[:1]) == ["Ã", "a"]  # half a character: as the vocabulary writes it


def test_the_command_and_its_second_start(
    cli: Callable[..., subprocess.CompletedProcess[str]],
    tiny_recipe: dict[str, Any],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_recipe(
        {**tiny_recipe, "data": {"train": {"generate": "addition", "options": {"rows": 64}}, "eval_fraction": 0.25}}
    )
    plain = cli("inspect", "recipe.yaml", "-n", "1", "--split", "eval", "--html", "page.html")
    assert plain.returncode == 0, plain.stderr
    assert plain.stderr == ""
    assert re.search(r"^example 1 of 16  generate:addition:\d+", plain.stdout)
    assert re.search(r"^  trained ┃ [\d·]+·</s>$", plain.stdout, re.MULTILINE)
    assert "48, 16 held out" in plain.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    again = cli("inspect", "recipe.yaml", "--json", "-n", "2")
    found = json.loads(again.stdout)
    assert len(found["examples"]) == 2 and found["masking"]["how"] == "markers" and not found["warnings"]
    assert not (tmp_path / "run").exists()  # nothing is begun


def test_a_recipe_on_anothers_result_needs_no_training(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    write_recipe(tiny_recipe, "first.yaml")
    later = write_recipe({**tiny_recipe, "model": {"from_recipe": "first.yaml"}}, "later.yaml")
    assert inspect(api.load_recipe(later), 1).shown[0].parts[0].trained
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="eval split"):
        inspect(api.load_recipe(later), 1, "eval")
