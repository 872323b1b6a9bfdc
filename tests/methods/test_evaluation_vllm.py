"""vLLM in an evaluation. vLLM itself can't run here: a stand-in with its documented names generates by transformers."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

import alignkit
from alignkit import api, preflight
from alignkit.errors import UserError
from alignkit.evaluation.generate import Settings, TransformersGenerator
from alignkit.evaluation.vllm import engine_arguments, sampling_arguments


@dataclasses.dataclass
class SamplingParams:
    """The fields of vLLM's that are for users, with its defaults (vllm/sampling_params.py)."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    bad_words: list[str] | None = None


@dataclasses.dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """Loads what it is given with transformers and peft, and is greedy."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: str, *, dtype: str, generation_config: str, **more: Any) -> None:
        assert dtype == "float32" and generation_config == "vllm"
        assert set(more) <= {"tokenizer", "enable_lora", "max_lora_rank", "seed", "gpu_memory_utilization"}
        self.made.append({"model": model, **more})
        self.model = model

    def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool, lora_request: Any) -> list[Any]:
        from alignkit.models import load_result

        model, tokenizer = load_result(self.model if lora_request is None else lora_request.lora_path)
        generator = TransformersGenerator(model.eval(), tokenizer)
        found = []
        for prompt, one in zip(prompts, sampling_params, strict=True):
            assert one.temperature == 0.0 and one.n == 1 and one.ignore_eos
            settings = Settings.of({"eos_token_id": one.stop_token_ids})
            text = generator.complete([prompt["prompt_token_ids"]], settings, max_new_tokens=one.max_tokens, seed=0)
            ids = tokenizer(text[0][0].text, add_special_tokens=False)["input_ids"]
            ids += one.stop_token_ids[:1] if text[0][0].finish == "stop" else []
            found.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=ids)]))
        return found


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    package: Any = types.ModuleType("vllm")
    package.LLM, package.SamplingParams = LLM, SamplingParams
    package.__spec__ = importlib.util.spec_from_loader("vllm", None)
    request: Any = types.ModuleType("vllm.lora.request")
    request.LoRARequest = LoRARequest
    for name, module in {
        "vllm": package,
        "vllm.lora": types.ModuleType("vllm.lora"),
        "vllm.lora.request": request,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    LLM.made = []
    return LLM


def arguments(given: dict[str, Any], stops: tuple[int, ...] = (2, 5)) -> SamplingParams:
    return SamplingParams(**sampling_arguments(Settings.of(given), stops, 32, 7))


def test_greedy_stops_where_we_say_and_nowhere_else() -> None:
    found = arguments({"max_new_tokens": 64, "repetition_penalty": 1.2, "min_new_tokens": 3})
    assert found == SamplingParams(
        temperature=0.0, max_tokens=32, stop_token_ids=[2, 5], ignore_eos=True, repetition_penalty=1.2, min_tokens=3
    )


def test_sampling_means_what_transformers_means_by_it() -> None:
    assert arguments({"do_sample": True, "num_return_sequences": 4}) == SamplingParams(
        n=4, temperature=1.0, top_p=1.0, top_k=50, seed=7, max_tokens=32, stop_token_ids=[2, 5], ignore_eos=True
    )
    own = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.05, "stop_strings": "END"}
    found = arguments(own)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.7, 0, 0.9, 0.05)
    assert found.stop == ["END"] and found.include_stop_str_in_output


@pytest.mark.parametrize("adapter", [None, {"r": 12, "target_modules": ["q_proj"]}])
def test_a_run_evaluated_with_it_answers_alike(
    vllm: type[LLM], adapter: Any, tiny_model: Path, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    task = {"task": "generation", "generation": {"max_new_tokens": 6}, "metrics": ["exact_match"],
            "data": {"generate": "addition", "options": {"rows": 8, "split": "test"}}}  # fmt: skip
    tasks = [{**task, "name": "plain"}, {**task, "name": "fast", "use_vllm": True}]
    model = {"model_name_or_path": str(tiny_model), "dtype": "float32"}
    recipe = {**tiny_recipe, "model": model, "evaluation": tasks, **({"adapter": adapter} if adapter else {})}
    alignkit.train(api.load_recipe(write_recipe(recipe)))
    lines = [json.loads(line) for line in Path("run/evaluation/samples.jsonl").read_text().splitlines()]
    said = {name: [(one["model"], one["id"], one["prediction"]) for one in lines if one["name"] == name] for name in
            ("plain", "fast")}  # fmt: skip
    assert said["plain"] == said["fast"] and len(said["fast"]) == 16
    scores = json.loads(Path("run/evaluation/scores.json").read_text())
    assert all(("engine:vllm" in one["signature"]) == (one["name"] == "fast") for one in scores)
    assert len(vllm.made) == 2
    if adapter is None:
        assert [Path(one["model"]).name for one in vllm.made] == ["model", tiny_model.name]
    else:
        assert vllm.made[0]["enable_lora"] and vllm.made[0]["max_lora_rank"] == 16
        assert "enable_lora" not in vllm.made[1]
    api.evaluate(api.load_recipe("recipe.yaml"))
    assert len(vllm.made) == 2  # what was generated is kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generation": {"num_beams": 4}}, "generation.num_beams: vLLM's engine samples or is greedy"),
        ({"generation": {"no_repeat_ngram_size": 2}}, "no_repeat_ngram_size: has no counterpart"),
        ({"use_vllm": False, "vllm": {"seed": 1}}, "evaluation.0.vllm: does nothing without use_vllm"),
        ({"task": "perplexity"}, "use_vllm: nothing is generated"),
        ({}, r"the baseline \(random weights\) has none"),
    ],
)
def test_what_it_can_not_do_is_refused_at_once(tiny_recipe: dict[str, Any], change: Any, words: str) -> None:
    task = {"name": "fast", "task": "generation", "use_vllm": True,
            "data": {"generate": "addition", "options": {"rows": 8}}, **change}  # fmt: skip
    with pytest.raises(UserError, match=words):
        api.load_recipe({**tiny_recipe, "evaluation": [task]})


def test_without_it_the_recipe_is_refused_before_torch(tiny_recipe: dict[str, Any]) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed")
    task = {"name": "fast", "task": "generation", "use_vllm": True, "baseline": False,
            "data": {"generate": "addition", "options": {"rows": 8}}}  # fmt: skip
    with pytest.raises(
        UserError, match=r"evaluation.0.use_vllm: vllm is not installed; pip install 'alignkit\[vllm\]'"
    ):
        preflight.require_tasks(api.load_recipe({**tiny_recipe, "evaluation": [task]}))


def test_an_adapter_it_does_not_load_is_to_be_merged(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "use_dora": True, "base_model_name_or_path": "a/b"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"LORA with use_dora; merge it first"):
        engine_arguments(str(tmp_path))
