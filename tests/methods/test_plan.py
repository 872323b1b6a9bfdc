"""Plans against what training really takes, and against the full simulation."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit import api
from alignkit.errors import UserError
from alignkit.plan.run import Planner, planner

MEASURE = """
import sys, torch
from alignkit import api, launch
launch.set_environment()
import alignkit.worker
recipe = api.load_recipe(sys.argv[1])
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
    launch.train(recipe)
live = peak = 0
for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
    if event.name() == "[memory]":
        live += event.nbytes()
        peak = max(peak, live)
print(peak)
"""


def measured(path: Path) -> int:
    """The most bytes that torch's CPU allocator held while the recipe trained, by the profiler's memory record."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.fixture
def planned(write_recipe: Callable[..., Path]) -> Callable[..., Any]:
    def plan(recipe: dict[str, Any], gpu: Any = "cpu", *, full: bool = False) -> Any:
        with planner(api.load_recipe(write_recipe(recipe)), gpu) as made:
            assert isinstance(made, Planner)
            return made.plan(full=full)

    return plan


ODD_CODE = """
from transformers import LlamaForCausalLM

class OddForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model.embed_tokens.register_forward_pre_hook(lambda _, ids: print(ids[0].numpy().max()))
"""


def test_code_that_cannot_be_simulated_keeps_no_other_plan_back(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    good = write_recipe(tiny_recipe, "good.yaml")
    folder = tmp_path / "odd"
    folder.mkdir()
    config = {"model_type": "llama", "vocab_size": 128, "auto_map": {"AutoModelForCausalLM": "odd.OddForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(tiny_recipe["model"]["config"] | config))
    (folder / "odd.py").write_text(ODD_CODE)
    model = {"model_name_or_path": str(folder), "trust_remote_code": True}
    tokenizer = {"tokenizer_name_or_path": tiny_recipe["model"]["tokenizer_name_or_path"]}
    odd = write_recipe(tiny_recipe | {"model": model | tokenizer, "adapter": {"r": 2}}, "odd.yaml")
    error, plan = api.plan_each([odd, good])
    assert isinstance(error, UserError) and "llama cannot be simulated: " in str(error) and "\n" not in str(error)
    assert isinstance(plan, dict) and plan["peak_memory_bytes"] > 0


def grown(recipe: dict[str, Any], layers: int = 6, **config: Any) -> dict[str, Any]:
    shape = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 8}
    recipe["model"]["config"] |= {**shape, "num_hidden_layers": layers, **config}
    recipe["training"] |= {"max_steps": 2, "per_device_train_batch_size": 16, "logging_steps": 1}
    recipe["data"]["train"][0]["options"]["rows"] = 256
    return recipe


def test_plan_meets_measured_memory(tiny_recipe: dict[str, Any], planned: Any, write_recipe: Any) -> None:
    recipe = grown(tiny_recipe)
    plan = planned(recipe)
    assert plan.parameters > 4e6
    assert plan.peak_memory_bytes == pytest.approx(measured(write_recipe(recipe)), rel=0.05)


@pytest.mark.parametrize("gpu", ["cpu", None])
def test_extension_equals_full_simulation(tiny_recipe: dict[str, Any], planned: Any, gpu: Any) -> None:
    recipe = grown(tiny_recipe, layers=9)
    recipe["adapter"] = {"r": 4}
    recipe["training"]["global_batch_size"] = 32
    short, full = planned(recipe, gpu), planned(recipe, gpu, full=True)
    assert short.simulated_layers == [2, 3, 4] and full.simulated_layers == [9]
    assert short.peak_memory_bytes == full.peak_memory_bytes
    assert (short.flops_per_step, short.parameters, short.moment) == (full.flops_per_step, full.parameters, full.moment)


def test_flops_of_a_dense_model(tiny_recipe: dict[str, Any], planned: Any) -> None:
    recipe = grown(tiny_recipe, tie_word_embeddings=True)
    plan = planned(recipe)
    config, (rows, length) = recipe["model"]["config"], plan.micro_batch
    used = plan.parameters - 0
    attention = 12 * config["num_hidden_layers"] * config["hidden_size"] * length * length * rows
    assert plan.flops_per_step == pytest.approx(6 * used * rows * length + attention, rel=0.02)


def test_command(tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], cli: Callable[..., Any]) -> None:
    path = write_recipe(tiny_recipe)
    done = cli("plan", path, "--json")
    assert done.returncode == 0 and not done.stderr
    plan = json.loads(done.stdout)
    assert plan["peak_memory_bytes"] == sum(plan["parts"].values()) > 0
    assert plan["flops_per_step"] > 0 and plan["tokens_per_step"] > 0
    refused = cli("plan", path, "--gpu", "h10-80gb")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "h100-80gb" in refused.stderr


def test_run_writes_its_plan_beside_what_it_measured(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    done = cli("sft", write_recipe(grown(tiny_recipe)), ALIGNKIT_NO_PLAN="")
    assert done.returncode == 0, done.stderr
    assert "peak memory" in done.stderr and "planned" in done.stderr
    result = json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]
    assert result["planned_peak_memory_bytes"] == sum(result["planned_parts"].values()) > 0
    assert result["peak_memory_of_training_bytes"] > 0.5 * result["planned_peak_memory_bytes"]


@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo"])
def test_methods_with_more_models(
    method: str, tiny_recipe: dict[str, Any], planned: Any, write_jsonl: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(64)]
    if method == "dpo":
        rows = [{"prompt": row["prompt"], "chosen": row["answer"], "rejected": "0"} for row in rows]
    recipe = {**tiny_recipe, "method": method, "data": {"train": [{"path": str(write_jsonl(rows))}]}}
    recipe["training"] = {"max_steps": 2, "per_device_train_batch_size": 8, "beta": 0.1}
    if method != "dpo":
        recipe["training"] |= {"max_completion_length": 8}
        recipe["rewards"] = [{"name": "exact_match"}]
    plan = planned(recipe)
    alone = 4 * 31_000  # bytes of the policy, about; the reference is as large, and so is PPO's critic
    assert plan.parts["weights"] > {"dpo": 1.5, "grpo": 1.5, "ppo": 2.5}[method] * alone
    assert ("decode" in plan.phases) == (method != "dpo")


def test_several_recipes_and_one_that_cannot_be_planned(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], cli: Callable[..., Any], tmp_path: Path
) -> None:
    path = write_recipe(tiny_recipe)
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(
        "method: sft\noutput_dir: run\n"
        "model: {model_name_or_path: nobody/unheard-of}\ndata: {train: [{path: a.jsonl}]}\n"
    )
    done = cli("plan", path, unknown, path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nobody/unheard-of" in done.stderr
    assert done.stdout.count("peak memory") == 3  # both plans, and the table's head
    lines = done.stdout.rstrip().splitlines()
    assert lines[-3].startswith("recipe ") and lines[-2] == lines[-1]


def test_what_helps_is_simulated_when_asked_for(tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path]) -> None:
    plan = api.plan([write_recipe(grown(tiny_recipe))], gpu="h100", what_helps=True)[0]
    assert plan["gpus"][0]["verdict"] == "fits"
    changes = {option["change"]: option["peak_memory_bytes"] for option in plan["options"]}
    assert changes["gradient checkpointing"] < plan["peak_memory_bytes"]
    assert plan["options"][0]["smallest_gpu"] == plan["smallest_gpu"] == "rtx4060ti-16gb"


def test_a_rollout_of_many_chunks_plans_as_one_of_all_chunks(
    tiny_recipe: dict[str, Any], planned: Any, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"{number}+1=", "answer": str(number + 1)} for number in range(64)]
    recipe = {**tiny_recipe, "method": "ppo", "data": {"train": [{"path": str(write_jsonl(rows))}]}}
    recipe["training"] = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "global_batch_size": 16,
        "beta": 0.1,
        "max_completion_length": 8,
    }
    recipe["rewards"] = [{"name": "exact_match"}]
    short = planned(recipe)
    monkeypatch.setattr("alignkit.plan.rollout.few_chunks", lambda *_: contextlib.nullcontext())
    full = planned(recipe)
    assert (short.phases, short.parts, short.flops_per_step) == (full.phases, full.parts, full.flops_per_step)
