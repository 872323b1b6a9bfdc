"""A reward model and DPO learn a known rule: one seed in `make test`, three in `make test-learning`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
SEEDS = [42, pytest.param(1, marks=pytest.mark.learning), pytest.param(2, marks=pytest.mark.learning)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_rewards_and_dpo_learn_the_rule(cli, tmp_path, seed):
    """Right beats wrong, and of two right answers the shorter: on held-out pairs, and in sampled answers."""
    for name in ("sft_sorting", "reward", "dpo"):
        text = (TINY / f"{name}.yaml").read_text().replace("seed: 42", f"seed: {seed}", 1)
        (tmp_path / f"{name}.yaml").write_text(text)
    rewarded = scores(cli, tmp_path, "reward")
    assert rewarded["held_out_pairs", "tuned", "preference_accuracy"]["value"] >= 0.9
    assert rewarded["held_out_pairs", "longer_wins", "preference_accuracy"]["value"] < 0.7
    aligned = scores(cli, tmp_path, "dpo")
    tuned, start = (aligned["sorting_sampled", model, "exact_match"] for model in ("tuned", "baseline"))
    assert tuned["value"] - start["value"] >= 0.2
    assert tuned["ci95"][0] > start["ci95"][1]  # the intervals do not even touch
    for name, words in (("reward", "accuracy by length alone"), ("dpo", "implicit rewards right")):
        assert words in (tmp_path / "runs" / f"tiny-{name}" / "report.md").read_text()


def scores(cli, folder: Path, method: str) -> dict:
    done = cli(method, f"{method}.yaml", "--json", timeout=1800)
    assert done.returncode == 0, done.stderr
    run = folder / json.loads(done.stdout)["run"]
    found = json.loads((run / "evaluation" / "scores.json").read_text())
    return {(one["name"], one["model"], one["metric"]): one for one in found if not one.get("slice")}
