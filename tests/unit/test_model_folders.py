"""Model folders and names, checked without torch: each bad folder is one line that names the recipe's field."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit import methods
from alignkit import recipe as recipes
from alignkit.model_folders import check_model, describe_folder, model_place, nowhere, start_of
from alignkit.recipe import Recipe

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def write_safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def model_folder(path: Path, *, weights: bool = True, tokenizer: bool = True) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "llama"}')
    if weights:
        write_safetensors(path / "model.safetensors")
    if tokenizer:
        (path / "tokenizer.json").write_text("{}")
    return path


def adapter_folder(path: Path, base: str) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    write_safetensors(path / "adapter_model.safetensors")
    return path


def recipe_for(folder: Path, model: str, more: str = "") -> Recipe:
    """A recipe file in `folder`, whose `model:` holds the given lines."""
    lines = "\n".join("  " + line for line in model.strip().splitlines())
    path = folder / "recipe.yaml"
    path.write_text(f"method: sft\noutput_dir: runs/x\nmodel:\n{lines}\n{more}")
    return recipes.load(path, {"sft": Recipe})


def only_problem(recipe: Recipe) -> str:
    problems = check_model(recipe)
    assert len(problems) == 1, problems
    line = str(problems[0])
    assert "\n" not in line
    return line


def test_a_good_folder_has_no_problems(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    assert check_model(recipe_for(tmp_path, "model_name_or_path: m")) == []
    assert describe_folder(tmp_path / "m").kind == "model"
    assert describe_folder(tmp_path / "m").weights == "safetensors"


def test_a_run_stands_for_its_result(tmp_path: Path) -> None:
    model_folder(tmp_path / "runs" / "a" / "model")
    (tmp_path / "runs" / "a" / "manifest.json").write_text("{}")
    recipe = recipe_for(tmp_path, "model_name_or_path: ./runs/a")
    assert check_model(recipe) == []
    assert start_of(recipe) == str(tmp_path / "runs" / "a" / "model")
    assert describe_folder(tmp_path / "runs" / "a").run == tmp_path / "runs" / "a"


def test_an_adapter_and_its_base(tmp_path: Path) -> None:
    model_folder(tmp_path / "base")
    adapter_folder(tmp_path / "adapter", str(tmp_path / "base"))
    assert check_model(recipe_for(tmp_path, "model_name_or_path: adapter")) == []
    found = describe_folder(tmp_path / "adapter")
    assert (found.kind, found.base, found.tokenizer) == ("adapter", str(tmp_path / "base"), False)


def test_the_line_names_file_line_and_field(tmp_path: Path) -> None:
    model_folder(tmp_path / "m", weights=False)
    line = only_problem(recipe_for(tmp_path, "dtype: auto\nmodel_name_or_path: m"))
    assert line.startswith(f"{tmp_path / 'recipe.yaml'}:5: model.model_name_or_path: ")
    assert "has no weights (model.safetensors or pytorch_model.bin)" in line


def test_no_tokenizer(tmp_path: Path) -> None:
    model_folder(tmp_path / "m", tokenizer=False)
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m"))
    assert "model.tokenizer_name_or_path: m has no tokenizer" in line
    other = "model_name_or_path: m\ntokenizer_name_or_path: alignkit:characters"
    assert check_model(recipe_for(tmp_path, other)) == []


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", weights=False)
    shards = {f"w{number}": f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    write_safetensors(folder / shards["w2"])
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m"))
    assert "lacks 2 of the 3 weight files" in line
    assert "model-00001-of-00003.safetensors, model-00003-of-00003.safetensors" in line


def test_pickled_weights_only_where_allowed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m"))
    assert "only pickled weights" in line and "model.use_safetensors: false" in line
    assert check_model(recipe_for(tmp_path, "model_name_or_path: m\nuse_safetensors: false")) == []


def test_broken_config(tmp_path: Path) -> None:
    (model_folder(tmp_path / "m") / "config.json").write_text('{"model_type":\n llama}')
    assert "config.json:2 is not valid JSON" in only_problem(recipe_for(tmp_path, "model_name_or_path: m"))


def test_git_lfs_pointers(tmp_path: Path) -> None:
    (model_folder(tmp_path / "m") / "model.safetensors").write_text(LFS_POINTER)
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m"))
    assert "git-lfs pointer" in line and "git lfs pull" in line


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_broken_downloads(tmp_path: Path, damage: str) -> None:
    path = model_folder(tmp_path / "m") / "model.safetensors"
    path.write_bytes({"cut": path.read_bytes()[:-3], "empty": b"", "text": b"<html>not found</html>" * 9}[damage])
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m"))
    assert "cut short" in line or "no safetensors file" in line


def test_an_adapter_that_moved_with_its_base(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "moved", str(tmp_path / "gone" / "model" / "base"))
    model_folder(tmp_path / "moved" / "base")
    assert describe_folder(tmp_path / "moved").base == str(tmp_path / "moved" / "base")


def test_adapter_without_its_base(tmp_path: Path) -> None:
    adapter_folder(tmp_path / "adapter", str(tmp_path / "gone"))
    lines = [str(problem) for problem in check_model(recipe_for(tmp_path, "model_name_or_path: adapter"))]
    assert any(f"stands on {tmp_path / 'gone'}, which does not exist" in line for line in lines)


def test_adapter_on_a_bad_base(tmp_path: Path) -> None:
    model_folder(tmp_path / "base", weights=False)
    adapter_folder(tmp_path / "adapter", str(tmp_path / "base"))
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: adapter"))
    assert "the base of the adapter" in line and "has no weights" in line


def test_a_second_adapter_says_how(tmp_path: Path) -> None:
    model_folder(tmp_path / "base")
    adapter_folder(tmp_path / "adapter", str(tmp_path / "base"))
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: adapter", "adapter: {r: 4}\n"))
    assert "on_top_of: merge or stack" in line


def test_on_top_of_nothing(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m", "adapter: {r: 4, on_top_of: merge}\n"))
    assert "adapter.on_top_of" in line and "full model" in line


def test_quantised_weights_need_an_adapter(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m", "quantization: {load_in_4bit: true}\n"))
    assert ": quantization: " in line and "adapter:" in line


def test_a_missing_folder_has_a_suggestion(tmp_path: Path) -> None:
    model_folder(tmp_path / "models" / "stories260K")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: ./models/stories260k"))
    assert f"did you mean {tmp_path / 'models' / 'stories260K'}?" in line
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: ./modls/stories260K"))
    assert f"did you mean {tmp_path / 'models' / 'stories260K'}?" in line


def test_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "work" / "runs" / "a" / "model")
    (tmp_path / "recipes").mkdir()
    line = only_problem(recipe_for(tmp_path / "recipes", "model_name_or_path: runs/a/model"))
    assert "is no Hub id" in line
    monkeypatch.chdir(tmp_path / "work")
    line = only_problem(recipe_for(tmp_path / "recipes", "model_name_or_path: runs/a/model"))
    assert "write ../work/runs/a/model" in line


def test_a_hub_id_that_is_not_here_while_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = recipe_for(tmp_path, "model_name_or_path: someone/some-model")
    assert "the Hub is offline" in only_problem(recipe)
    repository = tmp_path / "cache" / "models--someone--some-model"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert check_model(recipe) == []
    assert "at revision v2" in only_problem(
        recipe_for(tmp_path, "model_name_or_path: someone/some-model\nrevision: v2")
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert check_model(recipe_for(tmp_path, "model_name_or_path: someone/other")) == []


def test_random_weights(tmp_path: Path) -> None:
    characters = "\ntokenizer_name_or_path: alignkit:characters"
    config = "init: random\nconfig: {model_type: llama}"
    assert check_model(recipe_for(tmp_path, config + characters)) == []
    assert "has no tokenizer" in only_problem(recipe_for(tmp_path, config))
    line = only_problem(recipe_for(tmp_path, "init: random\nconfig: {hidden_size: 8}" + characters))
    assert "model_type is missing" in line
    line = only_problem(recipe_for(tmp_path, "init: random\nconfig: shape.json" + characters))
    assert "model.config: there is no" in line


def test_packaged_tokenizers_are_named(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m\ntokenizer_name_or_path: alignkit:character"))
    assert "did you mean alignkit:characters?" in line


def test_chat_templates(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m\nchat_template_path: chat.jinja"))
    assert "model.chat_template_path: there is no file" in line
    (tmp_path / "other").mkdir()
    line = only_problem(recipe_for(tmp_path, "model_name_or_path: m\nchat_template_path: other"))
    assert "holds no chat template" in line


def test_from_recipe(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("method: sft\n")
    assert check_model(recipe_for(tmp_path, "from_recipe: sft.yaml")) == []
    line = only_problem(recipe_for(tmp_path, "from_recipe: stf.yaml"))
    assert "model.from_recipe: there is no file" in line and "sft.yaml?" in line


def test_names(tmp_path: Path) -> None:
    model_folder(tmp_path / "gpt2")
    assert model_place("gpt2", tmp_path) == tmp_path / "gpt2"
    assert model_place("gpt2-large", tmp_path) is None
    assert model_place("org/name", tmp_path) is None
    assert model_place("./gpt3", tmp_path) == tmp_path / "gpt3"


def test_stays_light() -> None:
    heavy = ("torch", "transformers", "huggingface_hub")
    code = f"import sys, alignkit.model_folders; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


PPO = """\
method: ppo
output_dir: runs/x
model: {{model_name_or_path: ./m}}
data: {{train: prompts.jsonl}}
rewards: [{{model: {reward}}}]
critic: {{init: {init}}}
"""


@pytest.mark.parametrize(
    ("reward", "init", "expected"),
    [
        ("./m", "policy", "rewards.0.model: .*m is no reward model: it has no head that gives one number"),
        ("./none", "policy", "rewards.0.model: there is no folder .*none"),
        ("./reward", "./nowhere", "critic.init: there is no folder .*nowhere"),
        ("./reward", "./empty", "critic.init: .*empty has no config.json"),
    ],
)
def test_reward_models_and_critics_are_looked_for_too(tmp_path: Path, reward: str, init: str, expected: str) -> None:
    for name, top in (("m", "LlamaForCausalLM"), ("reward", "LlamaForSequenceClassification")):
        config = {"model_type": "llama", "architectures": [top]}
        (model_folder(tmp_path / name) / "config.json").write_text(json.dumps(config))
    for name in ("empty", "critic"):
        (tmp_path / name).mkdir()
    (tmp_path / "critic" / "critic.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(PPO.format(reward=reward, init=init))
    found = [str(problem) for problem in check_model(methods.load_recipe(tmp_path / "recipe.yaml"))]
    assert any(re.search(expected, line) for line in found), found
    (tmp_path / "recipe.yaml").write_text(PPO.format(reward="./reward", init="./critic"))
    assert check_model(methods.load_recipe(tmp_path / "recipe.yaml")) == []


def test_a_name_that_nothing_has_is_told_with_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "runs" / "tiny-sft").mkdir(parents=True)
    assert str(nowhere("tiny-stf")) == (
        "tiny-stf: no run, no model folder, and no cached Hub model of that name; did you mean runs/tiny-sft?"
    )
    assert str(nowhere("./other")) == "./other: no such run or model folder"
    assert nowhere("runs/tiny-sft") is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert nowhere("someone/tiny-stf") is None and nowhere("gpt2") is None  # the Hub may have them
    assert nowhere("tiny-stf") is not None
