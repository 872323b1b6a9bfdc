"""Generation: batches equal single prompts, kills lose nothing, every way of searching runs, and nothing is NaN."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, LlamaConfig

from alignkit.errors import RunFailed, UserError
from alignkit.evaluation import evaluate_tasks, stage
from alignkit.evaluation.generate import Settings, TransformersGenerator, batches_of
from alignkit.evaluation.memory import halved_when_full
from alignkit.model_folders import TOKENIZERS
from alignkit.recipe import EvaluationTask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CONTEXT = 96


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZERS / "characters")


def small(tokenizer: Any, config_class: Any = LlamaConfig, **more: Any) -> Any:
    torch.manual_seed(1)
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.4,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }
    return AutoModelForCausalLM.from_config(config_class(**fields)).eval()


def questions(count: int) -> list[dict[str, Any]]:
    chance = random.Random(0)
    return [
        {
            "prompt": "what is " + "+".join(str(chance.randrange(100)) for _ in range(2 + n % 7)) + "?",
            "completion": str(n),
        }
        for n in range(count)
    ]


def run(tmp_path: Path, model: Any, tokenizer: Any, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    say = fields.pop("say", lambda _: None)
    label = fields.pop("label", "tuned")
    given = {
        "name": "gen",
        "task": "generation",
        "data": "rows.jsonl",
        "metrics": ["exact_match", "bleu"],
        "generation": {"max_new_tokens": 12},
        **fields,
    }
    return evaluate_tasks(
        [EvaluationTask.model_validate(given)],
        model,
        tokenizer,
        base_dir=tmp_path,
        model_label=label,
        out_dir=tmp_path / "out",
        say=say,
    )


def samples(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------------- batches
@pytest.mark.parametrize(
    ("config_class", "more"),
    [(LlamaConfig, {}), (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT})],
    ids=["rotary positions", "learned positions"],
)
def test_a_batch_of_unequal_prompts_equals_one_by_one(tokenizer: Any, config_class: Any, more: Any) -> None:
    generator = TransformersGenerator(small(tokenizer, config_class, **more), tokenizer)
    settings = Settings.of({"max_new_tokens": 20})
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in questions(9)]
    together = generator.complete(prompts, settings, max_new_tokens=20, seed=0)
    alone = [generator.complete([prompt], settings, max_new_tokens=20, seed=0)[0] for prompt in prompts]
    assert together == alone
    assert len({one[0].text for one in together}) > 1


def test_order_is_restored_after_batching_by_length(tmp_path: Path, tokenizer: Any) -> None:
    model = small(tokenizer)
    run(tmp_path, model, tokenizer, questions(11), batch_size=4)
    batched = samples(tmp_path)
    other = tmp_path / "one"
    other.mkdir()
    run(other, model, tokenizer, questions(11), batch_size=1)
    assert [line["id"] for line in batched] == [f"rows.jsonl:{n + 1}" for n in range(11)]
    assert batched == samples(other)


def test_chats_are_prompted_as_the_template_says(tmp_path: Path, tokenizer: Any) -> None:
    chat = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "content": "6"},
    ]
    run(tmp_path, small(tokenizer), tokenizer, [{"messages": chat}])
    (line,) = samples(tmp_path)
    assert line["prompt"] == tokenizer.apply_chat_template(chat[:3], tokenize=False, add_generation_prompt=True)
    assert line["references"] == ["6"]


def test_batches_keep_within_the_context() -> None:
    batches = batches_of([10, 95, 96, 50, 90, 90, 10], 2, 12, CONTEXT)
    assert [(batch.places, batch.max_new_tokens) for batch in batches] == [
        ([3, 0], 12),
        ([6], 12),
        ([4, 5], 6),
        ([1], 1),
    ]


def test_prompts_beyond_the_context_are_left_out_and_said(tmp_path: Path, tokenizer: Any) -> None:
    said: list[str] = []
    rows = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "9" * 200, "completion": "9"}]
    scores = run(tmp_path, small(tokenizer), tokenizer, rows, say=said.append)
    assert any("left out" in line for line in said)
    assert scores[0]["n"] == 1 and "left_out:1" in scores[0]["signature"]


def test_a_batch_is_halved_when_memory_runs_out() -> None:
    def work(part: Any) -> int:
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(part)

    assert list(halved_when_full(work, list(range(5)))) == [([0, 1], 2), ([2], 1), ([3, 4], 2)]
    with pytest.raises(RunFailed, match="out of memory"):
        list(halved_when_full(lambda part: work([1, 2, 3]), [1]))


# ---------------------------------------------------------------------- ways of searching
def test_greedy_whatever_the_models_generation_config_says(tokenizer: Any) -> None:
    model = small(tokenizer)
    prompts = [tokenizer("1+1=")["input_ids"]]
    settings = Settings.of({"max_new_tokens": 15})
    plain = TransformersGenerator(model, tokenizer).complete(prompts, settings, max_new_tokens=15, seed=0)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, eos_token_id=tokenizer.eos_token_id
    )
    own = TransformersGenerator(model, tokenizer).complete(prompts, settings, max_new_tokens=15, seed=0)
    assert own == plain
    assert model.generation_config.temperature == 5.0


@pytest.mark.parametrize(
    "generation",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
        {"do_sample": True, "num_return_sequences": 4},
        {"stop_strings": ["1"]},
    ],
    ids=["beams", "two beams back", "sampling", "four samples", "stop strings"],
)
def test_every_way_of_searching_runs_again_to_the_same(tmp_path: Path, tokenizer: Any, generation: Any) -> None:
    given = {"max_new_tokens": 8, **generation}
    model, metrics = small(tokenizer), ["exact_match", "token_f1", "distinct2"]
    size = given.get("num_return_sequences", 1)
    first = run(tmp_path, model, tokenizer, questions(6), generation=given, metrics=metrics)
    lines = samples(tmp_path)
    assert len(lines) == 6 * size
    again = tmp_path / "again"
    again.mkdir()
    torch.manual_seed(99)  # the random numbers come from the seed, not from what ran before
    assert run(again, model, tokenizer, questions(6), generation=given, metrics=metrics) == first
    assert samples(again) == lines
    assert next(score for score in first if score["metric"] == "exact_match")["n"] == 6


def test_pass_at_k_takes_a_prompts_samples_together(tmp_path: Path, tokenizer: Any) -> None:
    generation = {"max_new_tokens": 2, "do_sample": True, "num_return_sequences": 5}
    rows = [{"prompt": f"{n}", "completion": "1"} for n in range(4)]
    scores = run(tmp_path, small(tokenizer), tokenizer, rows, metrics=["pass@1", "pass@5"], generation=generation)
    found = {score["metric"]: score for score in scores}
    assert found["pass@1"]["n"] == 4 and found["pass@1"]["value"] <= found["pass@5"]["value"]
    assert [line["sample"] for line in samples(tmp_path)][:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("generation", "field"),
    [
        ({"temperature": 0.7}, "generation.temperature"),
        ({"length_penalty": 2.0}, "generation.length_penalty"),
        ({"num_return_sequences": 2}, "generation.num_return_sequences"),
        ({"max_length": 20}, "generation.max_length"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(generation: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Settings.of(generation)
    assert caught.value.problems[0].field == field


# ---------------------------------------------------------------------- scores
def test_scores_and_samples_hold_together(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{**row, "kind": "even" if n % 2 else "odd"} for n, row in enumerate(questions(8))]
    scores = run(tmp_path, small(tokenizer), tokenizer, rows, slice_by="kind", metrics=["exact_match", "rouge"])
    text = (tmp_path / "out" / "scores.json").read_text()
    assert json.loads(text) == scores and "NaN" not in text
    names = ["exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum", "truncated_share", "empty_share"]
    assert [score["metric"] for score in scores if "slice" not in score] == names
    assert {score["slice"]["value"]: score["n"] for score in scores if "slice" in score} == {"even": 4, "odd": 4}
    for score in scores:
        assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
        assert "gen:greedy|max_new_tokens:12" in score["signature"]
    lines = samples(tmp_path)
    cut = sum(line["finish"] == "length" for line in lines) / len(lines)
    assert scores[names.index("truncated_share")]["value"] == pytest.approx(cut)
    for name in ("truncated_share", "empty_share"):  # shares of things that are or are not so: never a width of zero
        low, high = scores[names.index(name)]["ci95"]
        assert low < high
    assert set(lines[0]["metrics"]) >= {"exact_match", "rouge1"} and lines[0]["tokens"] <= 12


def test_a_second_model_joins_the_first_and_replaces_itself_only(tmp_path: Path, tokenizer: Any) -> None:
    model = small(tokenizer)
    for label in ("tuned", "baseline", "tuned"):
        run(tmp_path, model, tokenizer, questions(3), label=label)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert sorted(score["model"] for score in scores if score["metric"] == "bleu") == ["baseline", "tuned"]
    assert [line["model"] for line in samples(tmp_path)] == ["baseline"] * 3 + ["tuned"] * 3


@pytest.mark.parametrize(
    ("rows", "fields", "field"),
    [
        ([{"prompt": "1+1="}], {}, "evaluation.0.data"),
        ([{"prompt": "1", "completion": "2"}], {"metrics": ["perplexity"]}, "evaluation.0.metrics"),
        ([{"text": "abc"}], {}, "evaluation.0.data"),
    ],
    ids=["no reference", "unfit metric", "no prompt"],
)
def test_what_can_not_be_is_refused_by_field(
    tmp_path: Path, tokenizer: Any, rows: list[dict[str, Any]], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, small(tokenizer), tokenizer, rows, **fields)
    assert caught.value.problems[0].field == field


# ---------------------------------------------------------------------- kills
class Stop(Exception):
    pass


def test_what_was_done_before_an_interruption_is_not_done_again(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SECONDS_BETWEEN_LINES", 0.0)
    model, whole = small(tokenizer), tmp_path / "whole"
    whole.mkdir()
    settings = {"batch_size": 2, "generation": {"max_new_tokens": 6, "do_sample": True}}
    expected = run(whole, model, tokenizer, questions(10), **settings)

    def interrupt(line: str) -> None:
        if "4 of 10" in line:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path, model, tokenizer, questions(10), say=interrupt, **settings)
    (partial,) = (tmp_path / "out" / "completions").glob("*.partial")
    with partial.open("a") as file:
        file.write('{"place": 9, "compl')  # a line that a kill cut short
    said: list[str] = []
    assert run(tmp_path, model, tokenizer, questions(10), say=said.append, **settings) == expected
    assert any("4 of 10 prompts were done before" in line for line in said)
    assert samples(tmp_path) == samples(whole)
    assert not list((tmp_path / "out" / "completions").glob("*.partial"))


def test_other_weights_or_settings_start_anew(tmp_path: Path, tokenizer: Any) -> None:
    model, said = small(tokenizer), []
    run(tmp_path, model, tokenizer, questions(4))
    run(tmp_path, model, tokenizer, questions(4), generation={"max_new_tokens": 11}, say=said.append)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    run(tmp_path, model, tokenizer, questions(4), say=said.append)
    assert not any("done before" in line for line in said)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_evaluation_generation import *
tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "characters")
stage.SECONDS_BETWEEN_LINES = 0.0
def say(line):
    print(line, flush=True)
    time.sleep(0.3)
run(Path({folder!r}), small(tokenizer), tokenizer, questions(20), batch_size=1, say=say)
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, tokenizer: Any) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    deadline = time.time() + 120
    for line in process.stdout:
        if "of 20 prompts" in line or time.time() > deadline:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    said: list[str] = []
    run(tmp_path, small(tokenizer), tokenizer, questions(20), batch_size=1, say=said.append)
    assert any("prompts were done before" in line for line in said), said
    assert len(samples(tmp_path)) == 20


@pytest.mark.skipif(not (SHARED / "stories260K").is_dir(), reason="needs ../shared/data")
def test_the_published_greedy_text_of_stories260k(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(SHARED / "stories260K").eval()
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "stories260K")
    expected = (SHARED / "stories260K" / "EXPECTED_greedy.txt").read_text()
    generation = {"max_new_tokens": 200, "eos_token_id": 1}
    scores = run(tmp_path, model, tokenizer, [{"prompt": "<s>", "completion": expected}], generation=generation)
    assert samples(tmp_path)[0]["prediction"] == expected
    assert scores[0]["value"] == 1.0
