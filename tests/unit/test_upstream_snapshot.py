"""The snapshot of upstream's fields against the live classes. On versions other than its own it is not compared."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from alignkit.recipe.overlay import OVERLAY
from alignkit.recipe.owned import ADAPTER, CRITIC, GENERATION, NOT_IN_PPO, SFT, TRAINING
from alignkit.recipe.upstream import SNAPSHOT, fields, peft_types, snapshot

SCRIPT = Path(__file__).parents[2] / "scripts" / "snapshot_upstream.py"
VERSIONS: dict[str, str] = snapshot()["versions"]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("snapshot_upstream", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    any(importlib.metadata.version(name) != version for name, version in VERSIONS.items()),
    reason=f"the snapshot is of {VERSIONS}",
)
def test_the_snapshot_is_what_the_live_classes_say() -> None:
    module = script()
    assert SNAPSHOT.read_text(encoding="utf-8") == module.as_text(module.snapshot()), f"run {SCRIPT}"


def test_the_overlay_names_fields_that_exist() -> None:
    trl = [name for name in snapshot()["classes"] if snapshot()["classes"][name].get("base") == "TrainingArguments"]
    adapters = list(peft_types().values())
    heirs = {"TrainingArguments": ["TrainingArguments", *trl], "PeftConfig": adapters}
    for name, bounds in OVERLAY.items():
        known = {field for heir in heirs.get(name, [name]) for field in fields(heir)}
        assert set(bounds) <= known, f"{name}: {sorted(set(bounds) - known)}"


def test_upstream_defaults_are_within_the_overlay_s_bounds() -> None:
    """A bound that upstream's own default breaks is a mistake of ours."""
    for name in snapshot()["classes"]:
        for key, field in fields(name).items():
            default, bound = field.default, field.bound
            if isinstance(default, str) and field.choices:
                assert default in field.choices or bound.pattern, f"{name}.{key}"
            if isinstance(default, int | float) and not isinstance(default, bool):
                assert bound.ge is None or default >= bound.ge, f"{name}.{key}"
                assert bound.gt is None or default > bound.gt, f"{name}.{key}"
                assert bound.le is None or default <= bound.le, f"{name}.{key}"
                assert bound.lt is None or default < bound.lt, f"{name}.{key}"


def test_the_refused_fields_exist() -> None:
    training = {
        field
        for name, cls in snapshot()["classes"].items()
        if name == "TrainingArguments" or cls.get("base") == "TrainingArguments"
        for field in fields(name)
    }
    assert set(TRAINING) <= training
    assert set(SFT) <= set(fields("SFTConfig"))
    assert {*NOT_IN_PPO, *CRITIC} <= set(fields("PPOConfig"))
    assert set(ADAPTER) <= set(fields("LoraConfig"))
    assert set(GENERATION) <= set(fields("GenerationConfig"))


def test_help_is_there_and_short() -> None:
    for name, cls in snapshot()["classes"].items():
        for field, spec in cls["fields"].items():
            assert 0 < len(spec["help"]) <= 160, f"{name}.{field}"
