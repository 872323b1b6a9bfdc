"""Every shipped recipe runs end to end as a rehearsal, with a local stand-in for the model and data it would fetch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoConfig, AutoTokenizer, BertConfig, LlamaConfig, MistralConfig, Qwen3Config

import alignkit
from alignkit import api
from alignkit.errors import UserError
from alignkit.recipe import shipped
from alignkit.rehearsal import shrink

RECIPES = {recipe.name: recipe for recipe in shipped.shipped_recipes()}
SIZES = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8}
QUESTIONS = [f"{a} + {b}?" for a in range(8) for b in range(8)]
ANSWERS = [str(a + b) for a in range(8) for b in range(8)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "supervised": [{"question": q, "answer": a, "numbers": [1, 2, 3, 4], "target": 24}
                   for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "preference": [{"question": q, "chosen": a, "rejected": f"{a}0"} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "text": [{"text": question} for question in QUESTIONS],
    "token": [{"tokens": question.split()} for question in QUESTIONS],
}  # fmt: skip


def kind_of(recipe: dict[str, Any]) -> str:
    if recipe["method"] in ("dpo", "kto", "reward"):
        return "preference"
    if recipe["method"] == "classify":
        return "token" if recipe.get("task") == "token" else "text"
    return "supervised"


def local_model(folder: Path, method: str, head: str = "") -> Path:
    """A folder with a config and a tokenizer; its weights are never asked for."""
    tokenizer = AutoTokenizer.from_pretrained(Path(alignkit.__file__).parent / "assets" / "tokenizers" / "characters")
    kind, architecture = (BertConfig, "BertForMaskedLM") if method == "classify" else (LlamaConfig, "LlamaForCausalLM")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    labels = {"num_labels": 1} if head else {}
    kind(vocab_size=len(tokenizer), architectures=[head or architecture], **SIZES, **ids, **labels).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")  # weights of no tensor
    return folder


def localised(name: str, tmp_path: Path) -> dict[str, Any]:
    """The shipped recipe with what it would fetch from the Hub replaced."""
    path = RECIPES[name].path
    recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = tmp_path / "rows.jsonl"
    rows = ROWS[kind_of(recipe)]
    for index, row in enumerate(rows):  # the recipe may name the labels it knows
        names = recipe.get("labels", {}).get("names") or ["even", "odd"]
        row |= {"label": names[index % len(names)]} if "text" in row else {}
        row |= {"tags": [names[1] if index % 2 else names[0], names[0], names[0]]} if "tokens" in row else {}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["model"].pop("chat_template_path", None)
    for holder, key in [(recipe["data"], "train"), (recipe["data"], "eval"),
                        *((task, "data") for task in recipe.get("evaluation") or [])]:  # fmt: skip
        if key in holder and "generate" not in str(holder[key]):
            holder[key] = str(data)
    model = recipe["model"]
    if "model_name_or_path" in model:
        model["model_name_or_path"] = str(local_model(tmp_path / "model", recipe["method"]))
    for holder in (model, *recipe.get("rewards", [])):
        if "from_recipe" in holder:
            holder["from_recipe"] = str(path.parent / holder["from_recipe"])
        if "model" in holder and holder is not model:
            holder["model"] = str(local_model(tmp_path / "reward", "", "LlamaForSequenceClassification"))
    return {**recipe, "output_dir": str(tmp_path / "run")}


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith(("tiny/", "judge"))])
def test_shipped_recipes_rehearse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = api.load_recipe(localised(name, tmp_path))
    run, notes = api.rehearse(recipe)
    assert run.state == "finished" and run.path == tmp_path / "run-rehearsal"
    assert run.report_path.exists() and run.manifest["result"]["steps"] == 4
    assert run.manifest["model"]["parameters"] < 2e6
    assert not (tmp_path / "run").exists()  # the run itself is still to come
    assert any("real weights" in note for note in notes)


def test_a_recipe_that_would_fail_fails_in_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = localised("lora_qwen", tmp_path)
    recipe["adapter"]["target_modules"] = ["qq_proj"]
    with pytest.raises(UserError, match=r"adapter\.target_modules: .*qq_proj"):
        api.rehearse(api.load_recipe(recipe))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_size=4096),
        MistralConfig(num_hidden_layers=32, hidden_size=4096),
        Qwen3Config(num_hidden_layers=36, head_dim=128),
        BertConfig(),
        AutoConfig.for_model("gpt2"),
        AutoConfig.for_model("gemma3_text"),
        AutoConfig.for_model("modernbert"),
        AutoConfig.for_model("qwen3_moe"),
    ],
    ids=lambda config: config.model_type,
)
def test_a_shrunk_architecture_is_tiny_and_runs(config: Any) -> None:
    import torch
    from transformers import AutoModel

    flags = {name: getattr(config, name, None) for name in ("vocab_size", "tie_word_embeddings", "model_type")}
    shrink(config)
    assert flags == {name: getattr(config, name, None) for name in flags}
    config.vocab_size = 100
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, 1)
    model = AutoModel.from_config(config)
    assert model(torch.tensor([[5, 6, 7]])).last_hidden_state.shape == (1, 3, config.hidden_size)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6
