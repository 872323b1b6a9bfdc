"""`alignkit ppo`: recipes to trainers. The algorithm itself is tested in test_ppo_*.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignkit import api
from alignkit.errors import UserError


@pytest.fixture
def ppo_recipe(tiny_recipe, tiny_model):
    return {
        "method": "ppo",
        "output_dir": "run",
        "model": {"model_name_or_path": str(tiny_model), "dtype": "float32"},
        "data": {"train": [{"generate": "addition", "options": {"rows": 64}}]},
        "rewards": [{"name": "regex", "options": {"pattern": "[a-m]"}}],  # half of a random model's answers earn it
        "training": {
            "max_steps": 2, "global_batch_size": 8, "per_device_train_batch_size": 8, "max_completion_length": 6,
            "learning_rate": 1e-3, "num_iterations": 1, "logging_steps": 1, "save_strategy": "no",
        },
    }  # fmt: skip


def trained(write_recipe, recipe, **options):
    path = write_recipe(recipe)
    return api.train(api.load_recipe(path), **options)


def lines(run):
    import json

    return [json.loads(line) for line in Path(run.metrics_path).read_text().splitlines()]


@pytest.mark.parametrize(
    "sections, kind",
    [
        ({}, "model"),
        ({"critic": {"kind": "head"}}, "head"),
        ({"adapter": {"r": 4}}, "trunk"),
        ({"adapter": {"r": 4}, "quantization": {"load_in_4bit": True}}, "trunk"),
    ],
    ids=["full", "full, head", "lora", "qlora"],
)
def test_a_recipe_trains_and_leaves_policy_and_critic_apart(
    write_recipe, ppo_recipe, monkeypatch, tmp_path, sections, kind
):
    """Step 0 is the start: ratio 1, KL 0. Policy, reference and critic of an adapter share one, quantised, base."""
    monkeypatch.chdir(tmp_path)
    run = trained(write_recipe, ppo_recipe | sections)
    file = "adapter_model.safetensors" if "adapter" in sections else "model.safetensors"
    assert not any("critic" in name for name in load_file(Path(run.model_dir) / file))
    from alignkit.trainers.ppo import load_critic

    assert load_critic(Path(run.path) / "critic").kind == kind
    first, second = lines(run)[:2]
    assert abs(first["objective/kl"]) < 1e-6 and abs(first["policy/ratio"] - 1) < 1e-6
    assert first["value/explained_variance"] == pytest.approx(0, abs=1e-6)  # a head of zeros
    assert second["objective/kl"] != 0  # the policy has moved, and its reference has not


def test_dense_rewards_of_a_file_reach_the_tokens(write_recipe, ppo_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dense.py").write_text(
        "def credit(completion_ids, **_):\n    return [[0.5] * len(ids) for ids in completion_ids]\n"
        "def last(completion_ids, **_):\n    return [{len(ids) - 1: 1.0} for ids in completion_ids]\n"
    )
    ppo_recipe["rewards"] = [{"file": "dense.py:credit"}, {"file": "dense.py:last", "weight": 2.0}]
    run = trained(write_recipe, ppo_recipe)
    first = lines(run)[0]
    assert first["objective/scores"] == pytest.approx(0.5 * first["completions/mean_length"] + 2.0)


def test_prompts_may_be_plain_texts(write_recipe, ppo_recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ppo_recipe["data"]["train"][0]["options"]["style"] = "text"
    run = trained(write_recipe, ppo_recipe)
    assert all(abs(line["policy/ratio"] - 1) < 1e-5 for line in lines(run) if "policy/ratio" in line)


def test_an_interrupted_run_resumes_bitwise(write_recipe, ppo_recipe, monkeypatch, tmp_path):
    """Stopped inside a rollout that two epochs share; dense rewards, an adaptive beta and a critic of its own."""
    from alignkit.trainers import signals

    monkeypatch.chdir(tmp_path)
    ppo_recipe["training"] |= {
        "max_steps": 6, "per_device_train_batch_size": 4, "steps_per_generation": 4, "num_iterations": 2,
        "kl_target": 1.0, "normalize_scores": True,
    }  # fmt: skip
    whole = trained(write_recipe, ppo_recipe | {"output_dir": "whole"})
    step_end = signals.StopRequests.on_step_end

    def stop_at_3(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.requested = signals.signal.SIGTERM
        return step_end(self, args, state, control, **kwargs)

    from alignkit.errors import Interrupted

    stopping = ppo_recipe | {"output_dir": "again"}
    with monkeypatch.context() as patched:
        patched.setattr(signals.StopRequests, "on_step_end", stop_at_3)
        with pytest.raises(Interrupted):
            trained(write_recipe, stopping)
    again = trained(write_recipe, stopping, resume=True)
    for file in ("model/model.safetensors", "critic/critic.safetensors"):
        first, second = load_file(Path(whole.path) / file), load_file(Path(again.path) / file)
        assert all(torch.equal(first[name], second[name]) for name in first), file


@pytest.mark.parametrize(
    "change, field",
    [
        ({"training": {"kl_in": "loss"}}, "training.kl_estimator"),
        ({"training": {"beta": 0.0, "kl_target": 6.0}}, "training.beta"),
        ({"training": {"loss_type": "grpo"}}, "training.loss_type"),
        ({"training": {"critic_kind": "head"}}, "training.critic_kind"),
        ({"training": {"lam": 1.5}}, "training.lam"),
        ({"critic": {"kind": "head", "init": "policy"}}, "critic.init"),
        ({"critic": {"init": "reward"}}, "critic.init"),
        ({"critic": {"layers": 3}}, "critic.layers"),
        ({"rewards": [{"from_recipe": "none.yaml"}]}, "rewards.0.from_recipe"),
        ({"rewards": [{"name": "exact_match", "model": "m"}]}, "rewards.0"),
    ],
)
def test_contradictions_are_found_in_the_recipe(write_recipe, ppo_recipe, change, field):
    for section, values in change.items():
        ppo_recipe[section] = {**ppo_recipe.get(section, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(UserError) as refused:
        api.load_recipe(write_recipe(ppo_recipe))
    assert any(problem.field == field for problem in refused.value.problems), refused.value
