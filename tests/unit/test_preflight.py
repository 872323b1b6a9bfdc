"""What is told before torch is imported, beyond models and data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from alignkit import api, preflight
from alignkit.errors import UserError

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "sft.yaml"


def test_a_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    recipe = api.load_recipe(TINY, ["training.report_to=wandb"])
    with pytest.raises(UserError, match=r"training\.report_to: wandb is not installed; pip install wandb"):
        api.check(recipe)


def test_the_trackers_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    asked_of_the_environment = {"azure_ml", "kubeflow"}
    assert set(preflight.TRACKERS) == set(INTEGRATION_TO_CALLBACK) - asked_of_the_environment
