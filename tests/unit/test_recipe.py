"""Recipes that hold: what they resolve to and dump; the schema, the table of defaults, and that fields are read."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jsonschema
import pytest
from pydantic import Field, ValidationError
from recipe_classes import CLASSES, START, loaded

from alignkit.errors import UserError
from alignkit.methods import recipe_classes
from alignkit.recipe import InputPath, Recipe, Section, TrainingSection, dump, load, load_mapping, sections
from alignkit.recipe.defaults import DIFFERING, as_markdown
from alignkit.recipe.schema import recipe_schema, schema_text
from alignkit.recipe.upstream import fields, peft_types, section_class, snapshot

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "alignkit"
FULL = (
    START
    + """
quantization: {load_in_4bit: true}
adapter: {r: 16, lora_alpha: 32, eva_config: {rho: 1.5}, init_lora_weights: eva}
data:
  train:
    - {path: a.jsonl, weight: 0.8, split: train_sft}
    - {path: b.jsonl, weight: 0.2, columns: {prompt: question, completion: answer}}
  eval_fraction: 0.02
  loss_on: assistant
training:
  num_train_epochs: 1
  global_batch_size: 64
  per_device_train_batch_size: 4
  learning_rate: 2.0e-4
  warmup_steps: 0.03
  packing: true
evaluation:
  - name: held_out
    task: generation
    data: {path: held_out.jsonl}
    metrics: [bleu, rougeL, exact_match]
    generation: {max_new_tokens: 256}
  - {name: ppl, task: perplexity}
"""
)


def test_a_recipe_reads_as_written(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    assert recipe.training.given() == {
        "num_train_epochs": 1.0,
        "global_batch_size": 64,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-4,
        "warmup_steps": 0.03,
        "packing": True,
    }
    assert recipe.evaluation[0].generation.given() == {"max_new_tokens": 256}
    assert recipe.data.eval_fraction == 0.02
    assert recipe.path == tmp_path / "r.yaml"


DESIGN_EXAMPLE = """
# yaml-language-server: $schema=../schema/recipe.json
method: sft
seed: 42
output_dir: runs/qlora-llama

model:
  model_name_or_path: meta-llama/Llama-3.1-8B-Instruct   # a Hub id, a model folder, or an adapter folder
quantization:            # leave out for full precision
  load_in_4bit: true
  bnb_4bit_quant_type: nf4
adapter:                 # leave out for full fine-tuning
  peft_type: LORA
  r: 16
  lora_alpha: 32
  target_modules: all-linear

data:
  train:
    - path: HuggingFaceH4/ultrachat_200k      # a Hub id, or json/jsonl/csv/parquet/text files, or a folder
      split: train_sft
      weight: 0.8                             # the probability of drawing from this source
    - path: ours.jsonl
      weight: 0.2
      columns: {prompt: question, completion: answer}     # our word: theirs
  eval_fraction: 0.02    # or eval: [...], sources like train's
  loss_on: assistant     # assistant | completion | all

training:
  num_train_epochs: 1
  global_batch_size: 64
  per_device_train_batch_size: 4
  learning_rate: 2.0e-4
  lr_scheduler_type: cosine
  warmup_steps: 0.03     # below 1: a share of all steps
  max_length: 2048
  packing: true

evaluation:
  - name: held_out
    task: generation
    data: {path: held_out.jsonl}
    metrics: [bleu, rouge, exact_match]
    generation: {max_new_tokens: 256}
  - name: held_out_ppl
    task: perplexity
    data: {path: held_out.jsonl}
"""


def test_the_design_s_example_loads(tmp_path: Path) -> None:
    recipe = loaded(DESIGN_EXAMPLE, tmp_path)
    assert (recipe.adapter.r, recipe.training.max_length, len(recipe.evaluation)) == (16, 2048, 2)


def test_zero_learning_rate_and_whole_numbers_for_numbers_are_legal(tmp_path: Path) -> None:
    assert loaded(START + "training: {learning_rate: 0, weight_decay: 1}\n", tmp_path).training.learning_rate == 0.0


def test_short_forms_of_sources(tmp_path: Path) -> None:
    for train in ("x.jsonl", "[x.jsonl]", "{path: x.jsonl}", "[{path: x.jsonl}]"):
        recipe = loaded(START + f"data: {{train: {train}}}\n", tmp_path)
        assert [source.path for source in recipe.data.train] == ["x.jsonl"]


def test_recipes_are_frozen(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    with pytest.raises(ValidationError):
        recipe.seed = 1
    with pytest.raises(ValidationError):
        recipe.training.learning_rate = 1.0


def test_defaults_in_which_alignkit_differs(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    assert recipe.training.changed_defaults() == {"gradient_checkpointing": False, "logging_nan_inf_filter": False}
    assert recipe.adapter.target_modules == "all-linear"
    assert recipe.quantization.arguments() == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    assert "global_batch_size" not in recipe.training.arguments()
    assert recipe.training.arguments()["gradient_checkpointing"] is False
    unpacked = loaded(START + "training: {activation_checkpointing: true}\n", tmp_path).training
    assert (unpacked.train_sampling_strategy, unpacked.gradient_checkpointing) == ("group_by_length", True)
    eight = loaded(START + "quantization: {load_in_8bit: true}\n", tmp_path).quantization
    assert eight.bnb_4bit_quant_type == "fp4"
    moe = loaded(START + "adapter: {target_parameters: [experts]}\n", tmp_path).adapter
    assert moe.target_modules is None


def test_every_adapter_of_the_snapshot_can_be_asked_for(tmp_path: Path) -> None:
    for kind in peft_types():
        adapter = loaded(START + f"adapter: {{peft_type: {kind}}}\n", tmp_path).adapter
        assert adapter.peft_type == adapter.arguments()["peft_type"] == kind
        assert adapter.upstream_name == peft_types()[kind]


def test_every_class_of_the_snapshot_can_be_built() -> None:
    for name in snapshot()["classes"]:
        cls = section_class(name, sections.UpstreamSection)
        assert set(cls.model_fields) <= set(fields(name))


# ---------------------------------------------------------------------- resolved, dumped, compared
def test_a_dump_loads_to_an_equal_recipe_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "run").mkdir()
    for name in ("a.jsonl", "b.jsonl", "held_out.jsonl"):
        (tmp_path / "here" / name).write_text("")
    recipe = loaded(FULL, tmp_path / "here")
    copy = tmp_path / "run" / "recipe.yaml"
    copy.write_text(dump(recipe), encoding="utf-8")
    again = load(copy, CLASSES)
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    assert again.data is not None
    assert again.data.train[0].path == str(tmp_path / "here" / "a.jsonl")
    assert dump(again) == dump(recipe)


def test_resolved_shows_every_value_that_is_used(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    values = recipe.resolved()
    assert values["adapter"] == recipe.adapter.resolved()
    assert values["training"]["optim"] == "adamw_torch_fused"
    assert values["training"]["gradient_checkpointing"] is False
    assert "gradient_accumulation_steps" not in values["training"]  # it follows from the global batch
    assert values["adapter"]["eva_config"] == {"rho": 1.5}
    json.dumps(values)


def test_fingerprint_is_of_the_result_not_of_its_folder(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    assert loaded(FULL, tmp_path, ("output_dir=elsewhere",)).fingerprint() == recipe.fingerprint()
    assert loaded(FULL, tmp_path, ("training.optim=adamw_torch_fused",)).fingerprint() == recipe.fingerprint()
    for change in ("seed=1", "training.learning_rate=1e-4", "data.loss_on=all", "adapter.r=8"):
        assert loaded(FULL, tmp_path, (change,)).fingerprint() != recipe.fingerprint()
    assert recipe.model_copy(update={"output_dir": "z"}).fingerprint() == recipe.fingerprint()


def test_a_mapping_makes_the_same_recipe(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    mapping = YAML(typ="safe").load(FULL)
    recipe = load_mapping(mapping, CLASSES, base_dir=tmp_path)
    assert recipe == loaded(FULL, tmp_path)
    assert (recipe.path, recipe.base_dir) == (None, tmp_path)


def test_sections_pickle(tmp_path: Path) -> None:
    recipe = loaded(FULL, tmp_path)
    for section in (recipe.training, recipe.adapter, recipe.quantization, recipe.data):
        assert pickle.loads(pickle.dumps(section)) == section
    assert pickle.loads(pickle.dumps(recipe.training)).given() == recipe.training.given()


# ---------------------------------------------------------------------- a method's own
class Reward(Section):
    model: Annotated[str, InputPath()] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


class OnlineTraining(TrainingSection):
    max_length: Annotated[int, Field(ge=1)] = 77
    refused_fields: ClassVar[dict[str, str]] = {"num_generations": "say group_size"}


class OnlineRecipe(Recipe):
    method: Literal["online"]
    training_config: ClassVar[str] = "GRPOConfig"
    training_section: ClassVar[type[TrainingSection]] = OnlineTraining
    rewards: list[Reward]

    def contradictions(self) -> Any:
        if self.training.max_length > self.training.max_completion_length:
            yield self.problem("training.max_length", "too long")


def test_a_method_adds_sections_fields_and_rules(tmp_path: Path) -> None:
    (tmp_path / "rm").mkdir()
    text = START.replace("sft", "online") + "rewards: [{model: rm, weight: 2.0}]\ntraining: {beta: 0.1}\n"
    path = tmp_path / "r.yaml"
    path.write_text(text)
    recipe: Any = load(path, {"online": OnlineRecipe})
    assert (recipe.training.max_length, recipe.training.beta) == (77, 0.1)
    assert "max_length" not in recipe.training.arguments()
    assert recipe.resolved()["rewards"][0]["model"] == str(tmp_path / "rm")
    with pytest.raises(UserError, match=r"--set training.max_length: too long"):
        load(path, {"online": OnlineRecipe}, ["training.max_length=9999"])
    with pytest.raises(UserError, match=r"--set training.num_generations: is not given here; say group_size"):
        load(path, {"online": OnlineRecipe}, ["training.num_generations=4"])
    jsonschema.Draft7Validator.check_schema(recipe_schema({"online": OnlineRecipe}))


# ---------------------------------------------------------------------- schema, docs, imports
def test_schema_agrees_with_the_shipped_recipes(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    schema = recipe_schema(recipe_classes())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    shipped = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
    assert shipped
    for path in shipped:
        assert list(validator.iter_errors(YAML(typ="safe").load(path.read_text()))) == [], path
        load(path, recipe_classes())
    assert list(validator.iter_errors(YAML(typ="safe").load(dump(loaded(FULL, tmp_path))))) == []
    assert list(validator.iter_errors({"extends": "other.yaml"})) == []
    for wrong in ({"seeed": 1}, {"training": {"optim": "adamw_torc"}}, {"adapter": {"r": 0}}, {"data": {"trian": 1}}):
        whole = {"method": "sft", "output_dir": "x", "model": {"model_name_or_path": "x"}, **wrong}
        assert list(validator.iter_errors(whole)), wrong


def test_committed_schema_is_fresh() -> None:
    committed = (REPOSITORY / "schema" / "recipe.json").read_text(encoding="utf-8")
    assert committed == schema_text(recipe_classes()), "run: alignkit schema > schema/recipe.json"


def test_table_of_defaults_is_in_the_docs_and_true() -> None:
    assert as_markdown() in (REPOSITORY / "docs" / "defaults.md").read_text(encoding="utf-8")
    for default in DIFFERING:
        for name in default.classes:
            upstream = fields(name)[default.field].default
            cls = section_class(name, sections.UpstreamSection)
            given = {"load_in_4bit": True} if default.section == "quantization" else {}
            ours = getattr(cls.model_validate(given), default.field)
            assert ours != upstream, f"{name}.{default.field} no longer differs from upstream's {upstream}"


def test_recipes_are_read_without_anything_heavy() -> None:
    heavy = ("torch", "transformers", "datasets", "peft", "trl", "accelerate", "numpy", "sklearn")
    code = (
        "import sys; from alignkit.methods import load_recipe; "
        f"load_recipe({str(REPOSITORY / 'recipes' / 'tiny' / 'sft.yaml')!r}); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Fields whose reader is still to come, as (section, field). Nothing stays here.
PENDING: set[tuple[str, str]] = set()


def test_every_field_of_our_own_is_read_by_something() -> None:
    read: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path.parent != SOURCE / "recipe":
            read |= set(_names_read(ast.parse(path.read_text(encoding="utf-8"))))
    own = [cls for cls in _below(Section) if cls.__module__.startswith("alignkit.") and not _made_from_snapshot(cls)]
    assert sections.Source in own
    unread = {(cls.__name__, name) for cls in own for name in cls.__annotations__ if name in cls.model_fields} - {
        (cls.__name__, name) for cls in own for name in read
    }
    assert unread - PENDING == set(), "these fields are accepted and then ignored"


def _names_read(tree: ast.AST) -> Iterator[str]:
    """`x.name`, `getattr(x, "name")`, `x.get("name")` and `x["name"]`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "get",
            "getattr",
        ):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def _made_from_snapshot(cls: type[Section]) -> bool:
    return bool(cls.__dict__.get("upstream_name"))


def _below(cls: Any) -> list[Any]:
    return [one for sub in cls.__subclasses__() for one in (sub, *_below(sub))]
