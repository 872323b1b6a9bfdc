"""The tiny recipes of PPO learn what their headers say: one seed in `make test`, three in `make test-learning`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit import api

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.learning) for seed in (1, 2))]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for a session, so that what the recipes start from is trained once."""
    return tmp_path_factory.mktemp("learning")


def train(recipe: str, seed: int, runs: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], list[dict]]:
    """(exact match of each task and model, the run's log lines)."""
    monkeypatch.chdir(runs)
    sets = [f"seed={seed}", f"output_dir=runs/{Path(recipe).stem}-{seed}"]
    run = api.train(api.load_recipe(RECIPES / recipe, sets))
    scores = json.loads((Path(run.path) / "evaluation" / "scores.json").read_text())
    lines = [json.loads(line) for line in Path(run.metrics_path).read_text().splitlines()]
    matches = [one for one in scores if one["metric"] == "exact_match"]
    return {f"{one['name']} {one['model']}": one["value"] for one in matches}, lines


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_verifiable_reward_gains_15_points_of_greedy_exact_match(
    seed: int, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, lines = train("ppo.yaml", seed, runs, monkeypatch)
    assert scores["sorting tuned"] >= scores["sorting baseline"] + 0.15, scores
    explained = [line["value/explained_variance"] for line in lines if "value/explained_variance" in line]
    assert explained[-1] > 0, "the critic predicts returns better than their mean"


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_learned_reward_gains_20_points_of_the_preference_rule(
    seed: int, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFT, reward model and PPO in one go; PPO sees the reward model's scores alone."""
    scores, lines = train("rlhf_ppo.yaml", seed, runs, monkeypatch)
    assert scores["follows_the_rule tuned"] >= scores["follows_the_rule baseline"] + 0.20, scores
    kl = [line["objective/kl"] for line in lines if line.get("objective/kl") is not None]
    assert abs(kl[0]) < 1.0 and kl[-1] > 0, "the KL to the reference is in the log"
