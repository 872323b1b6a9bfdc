"""What bad recipes get: every problem, each at its file, line and field, with the likely fix."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from recipe_classes import CLASSES, START, SftRecipe, refusal

from alignkit.errors import UserError
from alignkit.recipe import load, load_mapping


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # misspelt keys, at every depth
        ("seeed: 1", "r.yaml:4: seeed: unknown field; did you mean seed?"),
        ("training:\n  learning_rat: 1", "r.yaml:5: training.learning_rat: unknown field; did you mean learning_rate?"),
        ("data: {train: [{paht: x}]}", "r.yaml:4: data.train.0.paht: unknown field; did you mean path?"),
        ("adapter: {lora_alfa: 3}", "r.yaml:4: adapter.lora_alfa: unknown field; did you mean lora_alpha?"),
        ("adapter: {eva_config: {rhoo: 1}}", "r.yaml:4: adapter.eva_config.rhoo: unknown field; did you mean rho?"),
        (
            "evaluation:\n- name: a\n  task: generation\n  data: x.jsonl\n  generation: {max_new_tokns: 1}",
            "r.yaml:8: evaluation.0.generation.max_new_tokns: unknown field; did you mean max_new_tokens?",
        ),
        # keys in the wrong place, of other tools, or owned elsewhere
        ("learning_rate: 1", "r.yaml:4: learning_rate: unknown field; it belongs in `training`"),
        ("training: {loss_on: all}", "r.yaml:4: training.loss_on: unknown field; it belongs in `data`"),
        ("training: {dtype: auto}", "r.yaml:4: training.dtype: unknown field; it belongs in `model`"),
        ("data: {train: x, seed: 1}", "r.yaml:4: data.seed: unknown field; it belongs at the top of the recipe"),
        (
            "training: {eval_fractoin: 0.1}",
            "r.yaml:4: training.eval_fractoin: unknown field; did you mean data.eval_fraction?",
        ),
        ("training: {lora_r: 8}", "r.yaml:4: training.lora_r: unknown field; did you mean adapter.r?"),
        ("training: {lr: 1}", "r.yaml:4: training.lr: unknown field; did you mean learning_rate?"),
        (
            "training: {warmup_ratio: 0.1}",
            "r.yaml:4: training.warmup_ratio: unknown field; did you mean warmup_steps (below 1 it is a share of all "
            "steps)?",
        ),
        (
            "training: {output_dir: x}",
            "r.yaml:4: training.output_dir: is not given here; it belongs at the top of the recipe: `output_dir`",
        ),
        (
            "training: {assistant_only_loss: true}",
            "r.yaml:4: training.assistant_only_loss: is not given here; say it with `data.loss_on: assistant`, "
            "`completion` or `all`",
        ),
        (
            "training: {bf16: true}",
            "r.yaml:4: training.bf16: is not given here; it is derived from the device and `model.dtype`",
        ),
        ("adapter: {task_type: X}", "r.yaml:4: adapter.task_type: is not given here; it follows from the method"),
        # wrong types
        ("seed: abc", "r.yaml:4: seed: expected a whole number, got 'abc'"),
        ("seed: 12abc", "r.yaml:4: seed: expected a whole number, got '12abc'"),
        ("seed: true", "r.yaml:4: seed: expected a whole number, got true"),
        ("seed: 1.5", "r.yaml:4: seed: expected a whole number, got 1.5"),
        ("training: {learning_rate: fast}", "r.yaml:4: training.learning_rate: expected a number, got 'fast'"),
        ("training: {learning_rate: true}", "r.yaml:4: training.learning_rate: expected a number, got true"),
        (
            "training: {learning_rate: '2e-4'}",
            "r.yaml:4: training.learning_rate: expected a number, got '2e-4'; remove the quotes",
        ),
        ("training: {packing: yes}", "r.yaml:4: training.packing: expected true or false, got 'yes'; write true"),
        ("training: {packing: 1}", "r.yaml:4: training.packing: expected true or false, got 1"),
        (
            "training:\n  adam_beta1:",
            "r.yaml:5: training.adam_beta1: is empty: expected a number; leave the key out to take its default",
        ),
        ("training: [1]", "r.yaml:4: training: expected a mapping of fields, got a list"),
        ("data: {train: 3}", "r.yaml:4: data.train: expected a list of mappings, got 3"),
        ("data: {train: []}", "r.yaml:4: data.train: is empty; name at least one"),
        (
            "data: {train: [{path: x, columns: {text: 3}}]}",
            "r.yaml:4: data.train.0.columns.text: expected text, got 3",
        ),
        ("adapter: {target_modules: 3}", "r.yaml:4: adapter.target_modules: expected text or a list of texts, got 3"),
        # out of range
        ("training: {learning_rate: -1}", "r.yaml:4: training.learning_rate: must be at least 0, got -1"),
        ("training: {learning_rate: .inf}", "r.yaml:4: training.learning_rate: must be a finite number, got inf"),
        (
            "training: {per_device_train_batch_size: 0}",
            "r.yaml:4: training.per_device_train_batch_size: must be at least 1, got 0",
        ),
        ("training: {global_batch_size: 0}", "r.yaml:4: training.global_batch_size: must be at least 1, got 0"),
        ("training: {num_train_epochs: 0}", "r.yaml:4: training.num_train_epochs: must be more than 0, got 0"),
        ("training: {max_length: 0}", "r.yaml:4: training.max_length: must be at least 1, got 0"),
        ("training: {pad_to_multiple_of: 0}", "r.yaml:4: training.pad_to_multiple_of: must be at least 1, got 0"),
        ("adapter: {r: 0}", "r.yaml:4: adapter.r: must be at least 1, got 0"),
        ("adapter: {lora_dropout: 1.0}", "r.yaml:4: adapter.lora_dropout: must be less than 1, got 1"),
        ("data: {train: x, eval_fraction: 1}", "r.yaml:4: data.eval_fraction: must be less than 1, got 1"),
        # not one of the choices
        (
            "training: {optim: adamw_torc}",
            "r.yaml:4: training.optim: 'adamw_torc' is not one of its values; did you mean adamw_torch?",
        ),
        (
            "training: {lr_scheduler_type: cosin}",
            "r.yaml:4: training.lr_scheduler_type: 'cosin' is not one of its values; did you mean cosine?",
        ),
        (
            "training: {report_to: [wandbb]}",
            "r.yaml:4: training.report_to.0: 'wandbb' is not one of its values; did you mean wandb?",
        ),
        (
            "quantization: {load_in_4bit: true, bnb_4bit_quant_type: int4}",
            "r.yaml:4: quantization.bnb_4bit_quant_type: 'int4' is not one of its values (fp4, nf4)",
        ),
        (
            "adapter: {init_lora_weights: pisa}",
            "r.yaml:4: adapter.init_lora_weights: 'pisa' is not one of its values; did you mean pissa?",
        ),
        (
            "adapter: {peft_type: LORE}",
            "r.yaml:4: adapter.peft_type: 'LORE' is not one of its values; did you mean LORA?",
        ),
        (
            "data: {train: x, loss_on: assistent}",
            "r.yaml:4: data.loss_on: 'assistent' is not one of its values; did you mean assistant?",
        ),
        # missing
        ("data: {eval: x}", "r.yaml:4: data.train: is missing"),
        ("evaluation:\n- task: perplexity\n  data: x", "r.yaml:5: evaluation.0.name: is missing"),
        (
            "adapter:",
            "r.yaml:4: adapter: nothing stands below this section; leave the key out, say null for none, or {} for one "
            "with its defaults",
        ),
    ],
)
def test_one_mistake_is_one_line_with_its_place_and_the_fix(lines: str, expected: str, tmp_path: Path) -> None:
    assert refusal(START + lines + "\n", tmp_path) == [expected]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "quantization: {load_in_4bit: true, load_in_8bit: true}",
            "quantization.load_in_8bit: 8-bit and 4-bit together; keep one of load_in_8bit and load_in_4bit",
        ),
        ("quantization: {}", "quantization: neither 4-bit nor 8-bit is asked for; say load_in_4bit"),
        (
            "data: {train: x, eval: y, eval_fraction: 0.1}",
            "data.eval_fraction: the eval split has its own sources in data.eval; keep one of the two",
        ),
        ("data: {train: x, streaming: true}", "data.streaming: a stream has no known length, so the learning rate's"),
        (
            "data: {train: x, streaming: true, eval_fraction: 0.1}\ntraining: {max_steps: 5}",
            "data.eval_fraction: a stream has no known length to take a share of",
        ),
        (
            "data: {train: [{path: x, weight: 0.5}, {path: y}]}",
            "data.train.1: has no weight, and other sources do; give every source a weight, or none",
        ),
        ("data: {train: {max_rows: 3}}", "data.train: a source needs `path` or `generate`"),
        (
            "data: {train: {path: x, generate: addition}}",
            "data.train.generate: a source has a path or a generator, not both",
        ),
        (
            "training: {global_batch_size: 6, per_device_train_batch_size: 4}",
            "training.global_batch_size: 6 is not a multiple of per_device_train_batch_size, which is 4; "
            "say per_device_train_batch_size: 3",
        ),
        ("training: {global_batch_size: 4}", "which is 8 by default; say per_device_train_batch_size: 4"),
        (
            "training: {global_batch_size: 16, per_device_train_batch_size: 4, gradient_accumulation_steps: 3}",
            "training.gradient_accumulation_steps: 4 a device × 3 steps are 12, which does not go into "
            "global_batch_size, 16",
        ),
        ("training: {packing: true, max_length: null}", "training.packing: packed rows need a length"),
        ("training: {warmup_steps: 1.5}", "training.warmup_steps: 1.5 is neither a share nor a number of steps"),
        (
            "training: {warmup_steps: 20, max_steps: 10}",
            "training.warmup_steps: 20 steps of warm-up, and only 10 steps",
        ),
        ("training: {save_steps: 2.5}", "training.save_steps: 2.5 is neither a share nor a number of steps"),
        (
            "data: {train: x}\ntraining: {eval_strategy: steps}",
            "training.eval_strategy: there is nothing to evaluate on; give data.eval or data.eval_fraction",
        ),
        (
            "data: {train: x}\ntraining: {load_best_model_at_end: true}",
            "training.load_best_model_at_end: needs eval data; give data.eval or data.eval_fraction",
        ),
        (
            "data: {train: x, eval: y}\ntraining: {metric_for_best_model: eval_loss}",
            "training.metric_for_best_model: needs evaluations while training; say training.eval_strategy",
        ),
        (
            "data: {train: x, eval: y}\ntraining: {load_best_model_at_end: true, eval_strategy: epoch}",
            "eval_strategy is epoch, save_strategy steps; make them the same, or say save_strategy: best",
        ),
        (
            "data: {train: x, eval: y}\n"
            "training: {eval_strategy: steps, eval_steps: 200, load_best_model_at_end: true}",
            "save_steps (500) is not a multiple of eval_steps (200); say save_steps: 200 or a multiple of it",
        ),
        (
            "data: {train: x, eval: y}\n"
            "training: {eval_strategy: steps, eval_steps: 0.2, load_best_model_at_end: true}",
            "must both be shares or both be numbers of steps",
        ),
        (
            "data: {train: x, eval: y}\ntraining: {eval_strategy: steps, early_stopping_patience: 3}",
            "training.early_stopping_patience: nothing says which metric is to get better",
        ),
        (
            "training: {gradient_checkpointing: true, activation_checkpointing: false}",
            "training.gradient_checkpointing: activation_checkpointing is its new name, and says otherwise",
        ),
        (
            "training: {dataloader_prefetch_factor: 2}",
            "training.dataloader_prefetch_factor: needs training.dataloader_nu",
        ),
        (
            "training: {hub_model_id: me/mine}",
            "training.hub_model_id: nothing is pushed; say training.push_to_hub: true",
        ),
        (
            "evaluation: [{name: a, task: perplexity, data: x}, {name: a, task: perplexity, data: x}]",
            "evaluation.1.name: there is another task named 'a'",
        ),
        ("evaluation: [{name: a, task: perplexity}]", "evaluation.0: a has no data, and the recipe has no eval split"),
        (
            "evaluation: [{name: a, task: perplexity, data: x, stride: 9, max_length: 4}]",
            "evaluation.0.stride: a stride of 9 leaves gaps between windows of 4",
        ),
    ],
)
def test_contradictions(lines: str, expected: str, tmp_path: Path) -> None:
    (problem,) = refusal(START + lines + "\n", tmp_path)
    assert expected in problem
    assert problem.startswith("r.yaml:")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{dtype: auto}", "model: nothing says where the model comes from; give model_name_or_path, or init with"),
        (
            "{model_name_or_path: x, from_recipe: y}",
            "model.from_recipe: the model comes from one place, and model_name_or_path names one already",
        ),
        ("{init: random}", "model.init: a model from scratch needs `config`"),
        ("{model_name_or_path: x, config: {a: 1}}", "model.config: only a model from scratch takes a config"),
    ],
)
def test_a_model_has_one_origin(model: str, expected: str, tmp_path: Path) -> None:
    (problem,) = refusal(f"method: sft\noutput_dir: x\nmodel: {model}\n", tmp_path)
    assert problem.startswith(f"r.yaml:3: {expected}")


def test_random_weights_are_not_quantized(tmp_path: Path) -> None:
    text = "method: sft\noutput_dir: x\nmodel: {init: random, config: {a: 1}}\nquantization: {load_in_4bit: true}\n"
    assert refusal(text, tmp_path) == [
        "r.yaml:4: quantization: random weights cannot be quantised; leave `quantization` out"
    ]


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "method: sft\n"
        "model: {model_name_or_path: x}\n"
        "data: {train: x, eval: y, eval_fraction: 0.1}\n"
        "training:\n"
        "  optim: adamw_torc\n"
        "  learning_rate: -1\n"
        "  packing: true\n"
        "  max_length: null\n"
    )
    assert [problem.split(": ")[:2] for problem in refusal(text, tmp_path)] == [
        ["r.yaml:1", "output_dir"],
        ["r.yaml:3", "data.eval_fraction"],
        ["r.yaml:5", "training.optim"],
        ["r.yaml:6", "training.learning_rate"],
        ["r.yaml:7", "training.packing"],
    ]


def test_one_mistake_is_not_reported_as_a_contradiction_too(tmp_path: Path) -> None:
    text = START + "data: {train: [{path: x, weight: abc}, {path: y, weight: 1}]}\n"
    assert refusal(text, tmp_path) == ["r.yaml:4: data.train.0.weight: expected a number, got 'abc'"]


def test_method(tmp_path: Path) -> None:
    rest = "output_dir: x\nmodel: {model_name_or_path: x}\n"
    assert refusal("method: sfft\n" + rest, tmp_path) == [
        "r.yaml:1: method: there is no method 'sfft'; did you mean sft?"
    ]
    assert refusal("method: zebra\n" + rest, tmp_path) == [
        "r.yaml:1: method: there is no method 'zebra'; the methods are sft, dpo"
    ]
    assert refusal(rest, tmp_path) == ["r.yaml:1: method: is missing; it is one of sft, dpo"]
    (problem,) = refusal("method: dpo\n" + rest, tmp_path, method="sft")
    assert problem.startswith("r.yaml:1: method: this recipe is for dpo, not for sft; run `alignkit dpo ")
    # the rest is checked all the same
    assert len(refusal("method: sfft\n" + rest + "seeed: 1\n", tmp_path)) == 2


def test_a_method_that_cannot_pack(tmp_path: Path) -> None:
    class Packless(SftRecipe):
        can_pack: ClassVar[bool] = False

    path = tmp_path / "r.yaml"
    path.write_text(START + "training: {packing: true}\n")
    with pytest.raises(UserError, match=r"training\.packing: sft cannot pack its rows"):
        load(path, {"sft": Packless})


def test_a_field_that_the_method_has_not_is_not_suggested(tmp_path: Path) -> None:
    text = START.replace("sft", "dpo") + "training: {sample_packing: true}\n"
    (problem,) = refusal(text, tmp_path)
    assert "did you mean packing" not in problem
    (problem,) = refusal(text.replace("sample_packing", "packing"), tmp_path)
    assert problem == "r.yaml:4: training.packing: unknown field; SFTConfig has it, DPOConfig has not"


def test_missing_file_names_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "qlora.yaml").write_text(START)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "qlra.yaml", CLASSES)
    assert str(caught.value) == f"{tmp_path}/qlra.yaml: there is no such file; did you mean {tmp_path}/qlora.yaml?"
    with pytest.raises(UserError, match="is a folder, not a recipe"):
        load(tmp_path, CLASSES)


def test_a_mapping_gets_the_same_problems_without_lines() -> None:
    with pytest.raises(UserError) as caught:
        load_mapping({"method": "sft", "output_dir": "x", "model": {"model_name_or_path": "x"}, "seeed": 1}, CLASSES)
    assert str(caught.value) == "seeed: unknown field; did you mean seed?"


def test_problems_of_a_loaded_recipe_stand_at_their_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(START + "data:\n  train:\n    - path: a.jsonl\n    - b.jsonl\n")
    recipe = load(path, CLASSES)
    assert str(recipe.problem("data.train.1.path", "no")) == f"{path}:7: data.train.1: no"
    assert str(recipe.problem("data.train.0.split", "no", "hm")) == f"{path}:6: data.train.0.split: no; hm"
    assert str(recipe.problem("training.learning_rate", "no")) == f"{path}:1: training.learning_rate: no"
