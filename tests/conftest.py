"""What the tests share: the command line run as a user runs it, a small real model, and the data beside the project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.llamas import tiny_llama

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ALIGNKIT_NO_PLAN", "1")  # one test asks for it; a second or two a run otherwise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, one of them keeps a single worker busy for minutes after all others are done."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return 0 if folder == "learning" else 1 if folder == "faults" else 2 if item.get_closest_marker("slow") else 3

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared data of tests never mixes with the user's."""
    os.environ["ALIGNKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `alignkit …` in a process of its own, in `tmp_path` by default; returns what it printed and its exit code."""

    def run(
        *words: object, cwd: Path | None = None, timeout: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "alignkit"), *map(str, words)]
        return subprocess.run(
            command,
            cwd=cwd or tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def tiny_recipe() -> dict[str, Any]:
    """A recipe that trains a tiny random Llama on made additions in a second or two."""
    return {
        "method": "sft",
        "output_dir": "run",
        "model": {
            "init": "random",
            "dtype": "float32",
            "tokenizer_name_or_path": "alignkit:characters",
            "config": {
                "model_type": "llama",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
            },
        },
        "data": {"train": [{"generate": "addition", "options": {"rows": 64}}]},
        "training": {"max_steps": 4, "per_device_train_batch_size": 8, "max_length": 48, "logging_steps": 1},
    }


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe (a mapping) as YAML and return its path."""

    def write(recipe: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSON lines and return the path."""

    def write(rows: list[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project; tests that need it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and the packaged character tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")
