"""`alignkit reward-test` as a user runs it."""

from __future__ import annotations

import json

import pytest
from tests.conftest import SHARED

RECIPE = {
    "method": "grpo",
    "output_dir": "run",
    "model": {"model_name_or_path": "some/model-that-is-not-needed"},
    "data": {"train": [{"generate": "addition"}]},
}


def test_a_table_for_people_and_for_programs(cli, write_recipe):
    recipe = write_recipe({**RECIPE, "rewards": [{"name": "numeric"}, {"name": "repetition", "weight": 0.1}]})
    done = cli("reward-test", recipe)
    assert done.returncode == 0, done.stderr
    assert "right, boxed" in done.stdout and "every answer at once" in done.stdout and "ms a sample" in done.stdout
    found = json.loads(cli("reward-test", recipe, "--json").stdout)
    means = {case["case"]: case["numeric"] for case in found["cases"]}
    assert means["right, as in the data"] == 1 and means["empty"] == 0 and means["wrong: a number off"] == 0


@pytest.mark.parametrize(
    ("reward", "data", "warning"),
    [
        ("return [1.0] * len(completions)", None, "constant is constant (1 for every answer)"),
        ("return [float(len(c[0]['content'])) for c in completions]", None, "rewards longer answers"),
        ("return [float(not c[0]['content']) for c in completions]", None, "'empty' scores as high as a right answer"),
        ("return [float(a not in c[0]['content']) for a, c in zip(map(str, k['answer']), completions)]", None,
         "the data's own right answers score low"),
        ("raise OSError('no disk')", None, "failed on right, as in the data: 32 of 32 samples: OSError: no disk"),
        ("return [0.0 if c else 1.0 for c in completions]", "prompts.jsonl", "the data name no right answers"),
    ],
)  # fmt: skip
def test_what_would_spoil_a_run_is_told_before_it(cli, write_recipe, tmp_path, reward, data, warning):
    (tmp_path / "mine.py").write_text(f"def constant(completions, **k):\n    {reward}\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": "Why?"}\n')
    recipe = {**RECIPE, "rewards": [{"file": "mine.py:constant"}]}
    if data is not None:
        recipe["data"] = {"train": [{"path": data}]}
    done = cli("reward-test", write_recipe(recipe))
    assert done.returncode == 0, done.stderr
    assert f"warning: {warning}" in done.stdout or warning in done.stdout


@pytest.mark.skipif(not SHARED.exists(), reason="the data are not beside the project")
def test_puzzles_are_solved_to_try_the_verifier(cli, write_recipe):
    data = {"train": [{"path": str(SHARED / "game24" / "game24.jsonl"), "max_rows": 8}]}
    done = cli("reward-test", write_recipe({**RECIPE, "data": data, "rewards": [{"name": "arithmetic_24"}]}), "--json")
    means = {case["case"]: case["arithmetic_24"] for case in json.loads(done.stdout)["cases"]}
    assert means.pop("right, as in the data") == 1 and set(means.values()) == {0.0}
    refused = cli("reward-test", write_recipe({**RECIPE, "method": "sft", "training": {"max_steps": 1}}))
    assert refused.returncode == 2 and "sft has no rewards" in refused.stderr
