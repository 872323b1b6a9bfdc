"""Merged models: each kind of adapter, loaded afresh by transformers alone, answers as the adapter on its base did."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from tests.methods import test_models
from tests.methods.test_models import LORA, built, logits, recipe_for, train_a_step
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alignkit import api
from alignkit.errors import RunFailed, UserError
from alignkit.merging import check, merge
from alignkit.merging.plan import make_plan
from alignkit.models import save_result

base = test_models.base
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
WORDS = [
    "cat",
    "dog",
    "girl",
    "boy",
    "bird",
    "frog",
    "bear",
    "fish",
    "duck",
    "cow",
    "pig",
    "fox",
    "ant",
    "bee",
    "fly",
    "hen",
]
ROWS = [{"text": f"Once upon a time there was a {word} who liked to play."} for word in WORDS]


@pytest.fixture
def train(
    base: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
    write_jsonl: Callable[..., Path],
) -> Callable[..., Path]:
    """A run: a few steps of an adapter on the base, at a rate at which it changes a lot."""

    def run(name: str, **sections: Any) -> Path:
        recipe = {
            "method": "sft",
            "output_dir": str(tmp_path / name),
            "model": {"model_name_or_path": str(base), "dtype": "float32"},
            "adapter": {**LORA, "target_modules": "all-linear"},
            "data": {"train": str(write_jsonl(ROWS)), "eval_fraction": 0.25},
            "training": {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.02, "max_length": 48},
            **sections,
        }
        return api.train(api.load_recipe(write_recipe(recipe, f"{name}.yaml"))).path

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_merge(kind: str, base: Path, tmp_path: Path) -> None:
    options = {**LORA, **KINDS[kind], "target_modules": "all-linear"}
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter=options))
    before = logits(model)
    train_a_step(model)
    after = logits(model)
    save_result(model, tokenizer, tmp_path / "adapter")
    found = merge(make_plan(str(tmp_path / "adapter")))
    assert found["model"] == str(tmp_path / "adapter-merged") and found["rows_from"] == "rows of random tokens"
    assert found["greatest_difference"] < 1e-4 <= found["allowed"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter-merged")
    assert (logits(merged) - after).abs().max() < 1e-4 < (before - after).abs().max()
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter-merged").get_vocab() == tokenizer.get_vocab()


def test_nf4_merges_into_the_weights_that_the_adapter_saw(train: Callable[..., Path]) -> None:
    run = train("qlora", quantization={"load_in_4bit": True})
    found = merge(make_plan(str(run), max_shard_size="200KB"))
    assert found["rows_from"] == "held-out rows" and found["rows"] == 4
    assert found["greatest_difference"] < 1e-4 and found["same_first_choice"] == 1.0
    folder = Path(found["model"])
    assert folder == run / "merged" and found["files"] > 1
    assert "library_name: transformers" in (folder / "README.md").read_text()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    # Merged into the weights before they were quantised, as `PeftModel.merge_and_unload` on the plain base does, the
    # answers are others.
    plain = AutoPeftModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    other = logits(plain.merge_and_unload())
    assert (logits(AutoModelForCausalLM.from_pretrained(folder)) - other).abs().max() > 1e-2


def test_stacked_adapters_merge(train: Callable[..., Path]) -> None:
    first = train("first")
    second = train(
        "second",
        model={"model_name_or_path": str(first), "dtype": "float32"},
        adapter={**LORA, "on_top_of": "stack", "target_modules": "all-linear"},
    )
    assert merge(make_plan(str(second)))["greatest_difference"] < 1e-4
    third = train("third", model={"model_name_or_path": str(first)}, adapter={**LORA, "on_top_of": "merge"})
    assert merge(make_plan(str(third)))["base"] == str(third / "model" / "base")


def test_a_reward_model_merges_with_its_head(
    base: Path, tmp_path: Path, write_recipe: Callable[..., Path], write_jsonl: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"Tell of {word}. ", "chosen": f"A {word} ran.", "rejected": "No."} for word in WORDS]
    recipe = {
        "method": "reward", "output_dir": str(tmp_path / "run"), "adapter": LORA,
        "model": {"model_name_or_path": str(base)}, "data": {"train": str(write_jsonl(rows))},
        "training": {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 0.02, "max_length": 48},
    }  # fmt: skip
    run = api.train(api.load_recipe(write_recipe(recipe)))
    found = merge(make_plan(str(run.path)))
    assert found["greatest_difference"] < 1e-4 and found["largest_logit"] > 0.01
    architecture = json.loads((run.merged_dir / "config.json").read_text())["architectures"]
    assert architecture == ["LlamaForSequenceClassification"]


def test_bfloat16_is_held_to_its_own_tolerance(base: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter=LORA))
    train_a_step(model)
    save_result(model, tokenizer, tmp_path / "adapter")
    found = merge(make_plan(str(tmp_path / "adapter"), dtype="bfloat16"))
    assert 1e-4 < found["greatest_difference"] < found["allowed"]
    assert AutoModelForCausalLM.from_pretrained(found["model"], dtype="auto").dtype == torch.bfloat16


def test_an_adapter_on_tied_embeddings(tmp_path: Path) -> None:
    """The output layer alone is adapted; the embeddings, which share its weight, must stay as they are."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=105, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(Path(api.__file__).parent / "assets/tokenizers/characters")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", lora_alpha=64))
    train_a_step(model, 0.1)
    save_result(model, tokenizer, tmp_path / "adapter")
    found = merge(make_plan(str(tmp_path / "adapter")))
    assert found["greatest_difference"] < 1e-4
    merged = AutoModelForCausalLM.from_pretrained(found["model"])
    assert torch.equal(merged.get_input_embeddings().weight, plain.get_input_embeddings().weight)


def test_a_wrong_base_is_refused(train: Callable[..., Path], base: Path, tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    run = train("run", model={"model_name_or_path": str(own), "dtype": "float32"})
    other = AutoModelForCausalLM.from_pretrained(own)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight += 0.01
    other.save_pretrained(tmp_path / "tuned")
    with pytest.raises(UserError, match=r"tuned is not the base .* its weights differ"):
        make_plan(str(run), base=str(tmp_path / "tuned"))
    moved = shutil.move(own, tmp_path / "moved")
    with pytest.raises(UserError, match=r"is gone.*--base FOLDER"):
        make_plan(str(run))
    assert merge(make_plan(str(run), base=str(moved)))["greatest_difference"] < 1e-4
    with pytest.raises(UserError, match=r"in use.*--overwrite replaces it"):
        make_plan(str(run), base=str(moved))
    shutil.copytree(tmp_path / "tuned", own)  # the base was trained on in place
    with pytest.raises(UserError, match="its weights differ"):
        make_plan(str(run), out=tmp_path / "again")


def test_a_merge_that_differs_leaves_nothing(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("run")
    plan = make_plan(str(run))
    right = check.logits_of

    def shifted(model: Any, rows: Any) -> list[torch.Tensor]:
        return [one + 0.01 * hasattr(model, "peft_config") for one in right(model, rows)]

    monkeypatch.setattr(check, "logits_of", shifted)
    with pytest.raises(RunFailed, match=r"differs from the adapter: greatest logit difference 0.01"):
        merge(plan)
    assert not list(run.glob("merged*"))


def test_the_command(
    train: Callable[..., Path], cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = train("run")
    done = cli("merge", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "loaded afresh and compared with the adapter on held-out rows (4, " in done.stdout
    again = cli("merge", run, "--overwrite", "--json")
    assert json.loads(again.stdout)["model"] == str(run / "merged")
    refused = cli("merge", run / "merged")
    assert refused.returncode == 2 and "is a full model: there is no adapter to merge" in refused.stderr
    missing = cli("merge", "nowhere")
    assert missing.returncode == 2 and "error: nowhere: there is no such run or adapter folder" in missing.stderr
