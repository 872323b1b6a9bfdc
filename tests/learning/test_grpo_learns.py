"""GRPO on the tiny model raises held-out accuracy: one seed in `make test`, three in `make test-learning`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
SEEDS = [42, pytest.param(1, marks=pytest.mark.learning), pytest.param(2, marks=pytest.mark.learning)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_raises_greedy_exact_match_by_fifteen_points(cli, tmp_path, seed):
    """From any folder, by one command: the recipe first trains what it starts from."""
    start = (TINY / "sft_sorting.yaml").read_text().replace("seed: 42", f"seed: {seed}", 1)
    (tmp_path / "sft_sorting.yaml").write_text(start)
    (tmp_path / "grpo.yaml").write_text((TINY / "grpo.yaml").read_text().replace("seed: 42", f"seed: {seed}", 1))
    done = cli("grpo", "grpo.yaml", "--json", timeout=1800)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    scores = {
        (score["name"], score["model"]): score
        for score in json.loads((tmp_path / run / "evaluation" / "scores.json").read_text())
        if score["metric"] == "exact_match"
    }
    tuned, baseline = scores["sorting", "tuned"], scores["sorting", "baseline"]
    assert tuned["value"] - baseline["value"] >= 0.15
    assert tuned["ci95"][0] > baseline["ci95"][1]  # the intervals do not even touch
    assert scores["sorting_sampled", "tuned"]["value"] > scores["sorting_sampled", "baseline"]["value"]
    held_out = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
    checks = [line["eval_exact_match"] for line in held_out if "eval_exact_match" in line]
    assert len(checks) == 5 and checks[-1] > checks[0] + 0.1
    text = (tmp_path / run / "report.md").read_text()
    assert "Completions through training" in text and "Rewards" in text
