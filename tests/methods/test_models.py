"""Every kind of model: built from a recipe, trained a step, saved, and loaded again by plain transformers and peft."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from alignkit.errors import UserError
from alignkit.models import (
    Precision,
    build_model,
    build_tokenizer,
    choose_precision,
    count_parameters,
    load_result,
    restore_adapter_dtype,
    save_result,
)
from alignkit.models.precision import decide_precision
from alignkit.recipe import Recipe

STORIES = Path(__file__).parents[2].parent / "shared" / "data" / "stories260K"
CHARACTERS = "alignkit:characters"
TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
NF4 = {"load_in_4bit": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on disk: the real stories260K where it is at hand, else a random one."""
    if STORIES.is_dir():
        return STORIES
    folder = tmp_path_factory.mktemp("base")
    recipe = recipe_for({"init": "random", "config": TINY, "tokenizer_name_or_path": CHARACTERS})
    save_result(*built(recipe)[:2], folder / "model")
    return folder / "model"


def recipe_for(model: dict[str, Any], **sections: Any) -> Recipe:
    return Recipe.model_validate({"method": "sft", "output_dir": "unused", "model": model, **sections})


def built(recipe: Recipe, seed: int = 0) -> tuple[Any, Any, Precision]:
    torch.manual_seed(seed)
    precision = choose_precision(recipe)
    tokenizer = build_tokenizer(recipe, notes=precision.notes)
    return build_model(recipe, tokenizer, precision), tokenizer, precision


IDS = torch.arange(5, 25).repeat(2, 1)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits.float()


def train_a_step(model: Any, learning_rate: float = 1e-2) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(2):  # LoRA's A has a gradient only once B is not zero
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-5, rtol=1e-5)


# Built, trained a step, saved, loaded back


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_full(base: Path, tmp_path: Path, dtype: str) -> None:
    model, tokenizer, precision = built(recipe_for({"model_name_or_path": str(base), "dtype": dtype}))
    wanted = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    assert {p.dtype for p in model.parameters()} == {wanted} == {precision.trainable_dtype}
    assert not (precision.bf16 and dtype != "auto")
    before = logits(model)
    train_a_step(model)
    after = logits(model)
    assert not close(before, after)
    save_result(model, tokenizer, tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.bin"))
    assert close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=wanted)), after)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == tokenizer.get_vocab()
    loaded, _ = load_result(tmp_path / "model")
    if dtype != "bfloat16":
        assert close(logits(loaded), after)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_adapters(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    recipe = recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter={**LORA, **options})
    model, tokenizer, _ = built(recipe)
    total, trainable = count_parameters(model)
    assert 0 < trainable < total
    before = logits(model)
    assert close(before, logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)))
    train_a_step(model)
    after = logits(model)
    assert not close(before, after)
    save_result(model, tokenizer, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.absolute())
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)), after)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert close(logits(PeftModel.from_pretrained(plain, tmp_path / "model")), after)
    assert close(logits(load_result(tmp_path / "model", decide(recipe, native=False))[0]), after)


def test_qlora(base: Path, tmp_path: Path) -> None:
    recipe = recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter=LORA, quantization=NF4)
    model, tokenizer, precision = built(recipe)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    assert type(layer).__name__ == "Linear4bit" and layer.compute_dtype == torch.float32
    assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert count_parameters(model)[0] - count_parameters(model)[1] == plain.num_parameters()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    train_a_step(model)
    after = logits(model)
    save_result(model, tokenizer, tmp_path / "model")
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    again = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=quantised)
    assert close(logits_in_training_mode(PeftModel.from_pretrained(again, tmp_path / "model")), after)
    loaded, _ = load_result(tmp_path / "model", precision, quantization=recipe.quantization.arguments())
    assert close(logits(loaded), after)


@torch.no_grad()
def logits_in_training_mode(model: Any) -> torch.Tensor:
    """Of a model without dropout. Eval mode lets bitsandbytes repack 4-bit weights on some CPUs, which not all fit."""
    return model.train()(input_ids=IDS, use_cache=False).logits.float()


def test_qlora_trains_the_same_after_an_evaluation(base: Path) -> None:
    """bitsandbytes repacks 4-bit weights in eval mode on CPUs with AVX512-BF16; gradients are wrong from then on."""
    recipe = recipe_for({"model_name_or_path": str(base)}, adapter=LORA, quantization=NF4)
    gradients = []
    for evaluated in (False, True):
        model, _, _ = built(recipe)
        if evaluated:
            logits(model)
        model.train()(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0] and all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_restoring_what_trl_casts(base: Path) -> None:
    model, _, precision = built(recipe_for({"model_name_or_path": str(base)}, adapter=LORA, quantization=NF4))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():  # as TRL's trainers do
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    restore_adapter_dtype(model, precision.trainable_dtype)
    after = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_random_weights(tmp_path: Path) -> None:
    model = {"init": "random", "config": {**TINY, "tie_word_embeddings": True}, "tokenizer_name_or_path": CHARACTERS}
    first, tokenizer, _ = built(recipe_for({**model, "dtype": "float32"}))
    second, _, _ = built(recipe_for({**model, "dtype": "float32"}))
    assert close(logits(first), logits(second))
    assert not close(logits(first), logits(built(recipe_for(model), seed=1)[0]))
    assert first.config.vocab_size == len(tokenizer)
    assert (first.config.pad_token_id, first.config.bos_token_id, first.config.eos_token_id) == (0, 1, 2)
    save_result(first, tokenizer, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert close(logits(again), logits(first))
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert again.generation_config.eos_token_id == 2 and again.generation_config.pad_token_id == 0


def test_an_adapter_on_random_weights_brings_them_along(tmp_path: Path) -> None:
    given = {"init": "random", "config": TINY, "tokenizer_name_or_path": CHARACTERS, "dtype": "float32"}
    model, tokenizer, _ = built(recipe_for(given, adapter=LORA))
    train_a_step(model)
    save_result(model, tokenizer, tmp_path / "model")
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model")), logits(model))


# Going on from an adapter


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "model"
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter=LORA))
    train_a_step(model)
    save_result(model, tokenizer, folder)
    return folder


def test_going_on_with_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(adapter), "dtype": "float32"}))
    plain = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
    assert close(logits(model), logits(plain))
    assert list(model.peft_config) == ["default"] and 0 < count_parameters(model)[1] < count_parameters(model)[0]
    train_a_step(model)
    assert not close(logits(model), logits(plain))
    save_result(model, tokenizer, tmp_path / "model")
    assert close(
        logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)), logits(model)
    )


def test_merged_then_a_new_adapter(adapter: Path, tmp_path: Path) -> None:
    start = {"model_name_or_path": str(adapter), "dtype": "float32"}
    model, tokenizer, _ = built(recipe_for(start, adapter={"r": 2, "on_top_of": "merge"}))
    old = logits(AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32))
    assert close(logits(model), old)
    assert model.peft_config["default"].r == 2
    train_a_step(model)
    after = logits(model)
    save_result(model, tokenizer, tmp_path / "model")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert close(logits(again), after)
    with again.disable_adapter():
        assert close(logits(again), old)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "target_modules": ["q_proj", "up_proj"]}])
@pytest.mark.parametrize("quantised", [False, True], ids=["float32", "nf4"])
def test_stacked_on_an_adapter(adapter: Path, tmp_path: Path, options: dict[str, Any], quantised: bool) -> None:
    sections: dict[str, Any] = {"quantization": NF4} if quantised else {}
    start = {"model_name_or_path": str(adapter), "dtype": "float32"}
    recipe = recipe_for(start, adapter={"r": 2, "on_top_of": "stack", **options}, **sections)
    model, tokenizer, precision = built(recipe)
    fields = recipe.quantization.arguments() if recipe.quantization else None
    old = logits(load_result(adapter, precision, quantization=fields)[0])
    assert close(logits(model), old)
    train_a_step(model)
    after = logits(model)
    assert not close(after, old)
    with model.disable_adapter():  # TRL's reference: what training started from
        assert close(logits(model), old)
    save_result(model, tokenizer, tmp_path / "model")
    assert close(logits(load_result(tmp_path / "model", precision, quantization=fields)[0]), after)
    if not quantised:
        again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert close(logits(again), after)


def test_only_plain_lora_is_stacked(adapter: Path) -> None:
    recipe = recipe_for({"model_name_or_path": str(adapter)}, adapter={"on_top_of": "stack", "use_dora": True})
    with pytest.raises(UserError, match=r"adapter\.on_top_of: only plain LoRA can be stacked; .*DoRA; use merge"):
        built(recipe)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_initialisations_that_change_the_base(base: Path, tmp_path: Path, init: str) -> None:
    start = {"model_name_or_path": str(base), "dtype": "float32"}
    model, tokenizer, _ = built(recipe_for(start, adapter={**LORA, "init_lora_weights": init}))
    train_a_step(model)
    save_result(model, tokenizer, tmp_path / "model")
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model")), logits(model))


def test_a_second_adapter_without_saying_how(adapter: Path) -> None:
    with pytest.raises(UserError, match=r"adapter: training starts from an adapter.*on_top_of: merge"):
        built(recipe_for({"model_name_or_path": str(adapter)}, adapter=LORA))


# Precision


def decide(recipe: Recipe, *, native: bool) -> Precision:
    return decide_precision(recipe, torch.device("cpu"), native)


@pytest.mark.parametrize(
    ("dtype", "adapted", "native", "frozen", "trainable", "bf16"),
    [
        ("auto", False, True, "bfloat16", "float32", True),
        ("auto", True, True, "bfloat16", "float32", True),
        ("auto", False, False, "float32", "float32", False),
        ("auto", True, False, "float32", "float32", False),
        ("float32", True, True, "float32", "float32", False),
        ("bfloat16", True, True, "bfloat16", "float32", True),
        ("bfloat16", False, True, "bfloat16", "bfloat16", False),
    ],
)
def test_precision(dtype: str, adapted: bool, native: bool, frozen: str, trainable: str, bf16: bool) -> None:
    adapter = {"adapter": LORA} if adapted else {}
    model = {"init": "random", "config": TINY, "tokenizer_name_or_path": CHARACTERS, "dtype": dtype}
    precision = decide(recipe_for(model, **adapter), native=native)
    assert (precision.frozen_dtype, precision.trainable_dtype) == (getattr(torch, frozen), getattr(torch, trainable))
    assert (precision.bf16, precision.fp16, precision.use_cpu) == (bf16, False, True)
    assert precision.compute_dtype == precision.frozen_dtype


def test_float16_needs_a_gpu() -> None:
    model = {"init": "random", "config": TINY, "tokenizer_name_or_path": CHARACTERS, "dtype": "float16"}
    with pytest.raises(UserError, match=r"model\.dtype: float16 training needs a GPU"):
        decide(recipe_for(model), native=True)
    gpu = decide_precision(recipe_for(model), torch.device("cuda", 0), True)
    assert gpu.fp16 and not gpu.bf16 and gpu.trainable_dtype == torch.float32


def test_going_on_with_an_adapter_is_no_full_fine_tuning(adapter: Path) -> None:
    recipe = recipe_for({"model_name_or_path": str(adapter), "dtype": "bfloat16"})
    precision = decide(recipe, native=True)
    assert precision.trainable_dtype == torch.float32 and precision.bf16
    model = build_model(recipe, build_tokenizer(recipe), precision)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("adapted", [False, True])
def test_a_bfloat16_checkpoint_where_bfloat16_is_slow(tmp_path: Path, adapted: bool) -> None:
    given = {"init": "random", "config": TINY, "tokenizer_name_or_path": CHARACTERS, "dtype": "bfloat16"}
    model, tokenizer, _ = built(recipe_for(given))
    save_result(model, tokenizer, tmp_path / "model")
    sections = {"adapter": LORA} if adapted else {}
    recipe = recipe_for({"model_name_or_path": str(tmp_path / "model")}, **sections)
    precision = decide(recipe, native=False)
    assert {p.dtype for p in build_model(recipe, tokenizer, precision).parameters()} == {torch.float32}
    assert any("float32" in note for note in precision.notes)


# Vocabulary


def test_a_larger_tokenizer_gets_new_rows(tmp_path: Path) -> None:
    small = {**TINY, "vocab_size": 64}
    LlamaForCausalLM(LlamaConfig(**{k: v for k, v in small.items() if k != "model_type"})).save_pretrained(
        tmp_path / "m"
    )
    start = {"model_name_or_path": str(tmp_path / "m"), "tokenizer_name_or_path": CHARACTERS, "dtype": "float32"}
    model, tokenizer, precision = built(recipe_for(start))
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(tokenizer)
    assert any("rows added" in note for note in precision.notes)
    with pytest.raises(UserError, match=r"tokenizer has 105 tokens.*64 rows.*modules_to_save"):
        built(recipe_for(start, adapter=LORA))
    trained = {**LORA, "modules_to_save": ["embed_tokens", "lm_head"]}
    model, tokenizer, _ = built(recipe_for(start, adapter=trained))
    train_a_step(model)
    save_result(model, tokenizer, tmp_path / "result")
    assert close(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")), logits(model))


# What upstream refuses, in one line


@pytest.mark.parametrize(
    ("model", "sections", "line"),
    [
        (
            {"config": {**TINY, "hiden_size": 3}},
            {},
            r"model\.config\.hiden_size: .*no such field; did you mean hidden_size",
        ),
        ({"config": {**TINY, "hidden_size": "x"}}, {}, r"model\.config: .*hidden_size"),
        ({"config": {**TINY, "model_type": "lama"}}, {}, r"model\.config: .*lama"),
        ({"config": {"model_type": "vit"}}, {}, r"model\.config: .*vit"),
        (
            {"config": {**TINY, "vocab_size": 9}},
            {},
            r"model\.config: the tokenizer has 105 tokens.*leave out vocab_size",
        ),
        ({"config": TINY, "attn_implementation": "flash_attention_2"}, {}, r"model\.attn_implementation: not possible"),
        ({"config": TINY}, {"adapter": {"target_modules": ["nope"]}}, r"adapter\.target_modules: .*nope"),
        ({"config": TINY}, {"quantization": NF4, "adapter": LORA}, r"quantization: random weights"),
    ],
)
def test_refusals_of_random_models(model: dict[str, Any], sections: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        built(recipe_for({"init": "random", "tokenizer_name_or_path": CHARACTERS, **model}, **sections))
    assert "\n" not in str(caught.value)


def test_refusals_of_folders(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"quantization: quantised weights cannot be trained"):
        built(recipe_for({"model_name_or_path": str(base)}, quantization=NF4))
    LlamaForCausalLM(LlamaConfig(**{k: v for k, v in TINY.items() if k != "model_type"})).save_pretrained(
        tmp_path / "m"
    )
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    recipe = recipe_for({"model_name_or_path": str(tmp_path / "m"), "tokenizer_name_or_path": CHARACTERS})
    with pytest.raises(UserError, match=r"model\.model_name_or_path: the weights of .* do not fit"):
        built(recipe)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "model_type": "no-such-type"}))
    with pytest.raises(UserError, match=r"model\.model_name_or_path: .*no-such-type"):
        built(recipe)


def test_a_checkpoint_that_lacks_weights(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers would go on with random ones: a layer that is not there, or the names that torch.compile leaves."""
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    config = json.loads((base / "config.json").read_text())
    recipe = recipe_for({"model_name_or_path": str(tmp_path), "tokenizer_name_or_path": CHARACTERS})
    (tmp_path / "config.json").write_text(json.dumps(config))
    cut = {name: value.clone() for name, value in weights.items() if "layers.1.mlp" not in name}
    save_file(cut, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 3 of .* model\.layers\.1\.mlp\.down_proj\.weight, .*would be random"):
        built(recipe)
    compiled = {f"_orig_mod.{name}": value.clone() for name, value in weights.items()}
    save_file(compiled, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"it holds weights that the model has not: _orig_mod\.lm_head"):
        built(recipe)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    save_file({k: v.clone() for k, v in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    with caplog.at_level("WARNING"):
        built(recipe)
    assert "weights that the model does not use: model.layers.1." in caplog.text


def test_a_hub_id_out_of_reach() -> None:
    for given in ({"model_name_or_path": "no-one-here/no-such-model"}, {"tokenizer_name_or_path": CHARACTERS}):
        model = {"model_name_or_path": "no-one-here/no-such-model", **given}
        with pytest.raises(UserError, match=r"model\.model_name_or_path: no-one-here/no-such-model is ") as caught:
            built(recipe_for(model))
        assert "\n" not in str(caught.value)


def test_sampling_settings_do_not_stop_a_save(base: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(base)}))
    model.generation_config.temperature = 0.6  # as the generation configs of many models on the Hub
    save_result(model, tokenizer, tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.temperature == 0.6


def test_a_result_replaces_an_older_one_whole(base: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = built(recipe_for({"model_name_or_path": str(base)}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    save_result(model, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model" / "old.txt").exists() and not (tmp_path / "model.partial").exists()


def test_classification_heads(base: Path, tmp_path: Path) -> None:
    recipe = recipe_for({"model_name_or_path": str(base), "dtype": "float32"}, adapter=LORA)
    precision = choose_precision(recipe)
    tokenizer = build_tokenizer(recipe)
    model = build_model(recipe, tokenizer, precision, "sequence_classification", 3)
    assert model.peft_config["default"].task_type == "SEQ_CLS"
    assert model(input_ids=IDS).logits.shape == (2, 3)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    save_result(model, tokenizer, tmp_path / "model")
    gc.collect()


def test_a_runs_own_recipe_makes_the_same_adapter(tiny_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """recipe.yaml holds every field, those of nested configs too, as plain data; peft wants objects there."""
    from ruamel.yaml import YAML

    from alignkit import api

    tiny_recipe |= {"output_dir": str(tmp_path / "run"), "adapter": {"r": 2}}
    tiny_recipe["adapter"]["runtime_config"] = {"ephemeral_gpu_offload": False}
    run = api.train(api.load_recipe(tiny_recipe))
    again = YAML(typ="safe").load(run.recipe_path.read_text()) | {"output_dir": str(tmp_path / "again")}
    assert again["adapter"]["runtime_config"] == {"ephemeral_gpu_offload": False} and "eva_config" in again["adapter"]
    other = api.train(api.load_recipe(again))
    weights = [(folder.model_dir / "adapter_model.safetensors").read_bytes() for folder in (run, other)]
    assert weights[0] == weights[1]
