"""Alarms, difficulty, samples and sampling, each alone."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from alignkit.trainers.alarms import Alarms
from alignkit.trainers.completing import Sampling, can_sample, sample
from alignkit.trainers.order import Difficulty, DifficultySampler, EpochRepeatSampler
from alignkit.trainers.samples import SamplesFile


# ---------------------------------------------------------------------- alarms
def told(*lines, held_out=200):
    alarms = Alarms()
    return [text for line in lines for text in alarms.read(line, held_out)]


def test_a_healthy_run_raises_no_alarm():
    steps = [{"reward": 0.1 * n, "entropy": 1.0 / (n + 1), "frac_reward_zero_std": 0.3, "completions/mean_length": 20.0,
              "completions/clipped_ratio": 0.1} for n in range(12)]  # fmt: skip
    assert told(*steps, {"eval_exact_match": 0.5}) == []


def test_each_alarm_is_told_once_and_survives_a_resume():
    start = {"reward": 0.5, "entropy": 1.0, "frac_reward_zero_std": 0.0, "completions/mean_length": 20.0,
             "completions/clipped_ratio": 0.0}  # fmt: skip
    assert "entropy has collapsed" in told(start, *[{**start, "entropy": 0.01, "reward": 0.3}] * 9)[0]
    assert "95% of the groups" in told(*[{**start, "frac_reward_zero_std": 0.95}] * 9)[0]
    long = {**start, "completions/mean_length": 90.0, "completions/clipped_ratio": 0.8}
    assert len(told(start, *[long] * 9)) == 1
    alarms = Alarms()
    for line in (start, long, long):
        assert alarms.read(line) == []
    again = Alarms()
    again.restore(alarms.state())
    assert "from 20 to 90 tokens" in again.read(long)[0]


def test_a_gamed_reward_is_seen_by_the_held_out_check():
    honest = [{"reward": 0.3}, {"eval_exact_match": 0.5}, {"reward": 0.5}, {"eval_exact_match": 0.48}]
    assert told(*honest) == []
    assert "the reward may be gamed" in told(*honest[:3], {"eval_exact_match": 0.2})[0]
    assert told({"reward": 0.5}, {"eval_exact_match": 0.5}, {"reward": 0.3}, {"eval_exact_match": 0.2}) == []


# ---------------------------------------------------------------------- order
def test_epochs_have_orders_of_their_own_and_the_first_is_upstreams():
    sampler = EpochRepeatSampler(range(8), mini_repeat_count=2, batch_size=4, repeat_count=1, seed=3)
    upstream = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == upstream
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != upstream
    fresh = EpochRepeatSampler(range(8), mini_repeat_count=2, batch_size=4, repeat_count=1, seed=3)
    fresh.set_epoch(1)
    assert list(fresh) == second


def test_prompts_that_teach_nothing_are_sampled_less():
    difficulty = Difficulty()
    names = [f"p{n}" for n in range(100)]
    for _ in range(6):
        for n, name in enumerate(names):
            solved = {0: [0, 0, 0, 0], 1: [1, 1, 1, 1], 2: [0, 1, 0, 1]}[n % 3]
            difficulty.update([name] * 4, [float(one) for one in solved])
    assert difficulty.rate("p0") < 0.1 < 0.4 < difficulty.rate("p2") < 0.6 and difficulty.rate("p1") > 0.9
    assert difficulty.chance("p2") > 0.95 and difficulty.chance("p0") < 0.25 and difficulty.chance("new") == 1
    sampler = DifficultySampler(names, difficulty, mini_repeat_count=4, batch_size=10, seed=0)
    drawn = list(sampler)
    assert len(drawn) == 400 and len(set(drawn[:40])) == 10
    share = sum(index % 3 == 2 for index in drawn) / len(drawn)
    assert share > 0.6 and difficulty.left_out > 50
    assert difficulty.figures()["difficulty/never_solved"] == pytest.approx(0.34)


# ---------------------------------------------------------------------- samples
def test_samples_after_the_checkpoint_are_forgotten(tmp_path):
    file = SamplesFile(tmp_path / "samples.jsonl")
    for step in (1, 2, 3):
        file.extremes(step, [{"id": "a", "reward": 0.1}, {"id": "b", "reward": 0.9}, {"id": "c", "reward": None}])
    with file.path.open("a") as half:
        half.write('{"step": 4, "ki')
    file.drop_after(2)
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [(line["step"], line["kind"], line["id"]) for line in lines] == [
        (1, "best", "b"), (1, "worst", "a"), (2, "best", "b"), (2, "worst", "a")
    ]  # fmt: skip


# ---------------------------------------------------------------------- sampling
@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=24, max_position_embeddings=128)  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def test_greedy_answers_are_those_of_generate(model):
    """Prompts of several lengths, groups that share a reading, rows that end early and are taken out."""
    assert can_sample(model)
    prompts = [[3, 4, 5]] * 4 + [[6]] * 3 + [[7, 8, 9, 10, 11]] * 2 + [[3, 4, 5]]
    stops = (1, 5, 9, 13)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = (torch.arange(width) >= torch.tensor([[width - len(p)] for p in prompts])).long()
    config = GenerationConfig(max_new_tokens=30, do_sample=False, eos_token_id=list(stops), pad_token_id=0)
    with torch.no_grad():
        rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    expected = []
    for row in rows:
        end = next((place + 1 for place, token in enumerate(row) if token in stops), len(row))
        expected.append(row[:end])
    assert sample(model, prompts, Sampling(30, stops, 0, greedy=True)) == expected


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}])
def test_samples_have_the_distribution_of_generate(model, fields):
    torch.manual_seed(1)
    prompts, number = [[3, 4, 5]], 4000
    ours = sample(model, prompts * number, Sampling(1, (1,), 0, **fields))
    counts = torch.bincount(torch.tensor([row[0] for row in ours]), minlength=24) / number
    config = GenerationConfig(max_new_tokens=1, do_sample=True, eos_token_id=1, pad_token_id=0,
                              **{"top_k": 0, "top_p": 1.0, **fields})  # fmt: skip
    ids = torch.tensor(prompts * number)
    with torch.no_grad():
        theirs = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)[:, 3]
    expected = torch.bincount(theirs, minlength=24) / number
    assert (counts - expected).abs().max() < 0.04
    assert ((counts > 0) == (expected > 0)).float().mean() > 0.9
