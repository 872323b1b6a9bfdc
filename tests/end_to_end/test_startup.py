"""The torch line: what must be quick imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "evaluate", "accelerate", "bitsandbytes", "sklearn")


@pytest.mark.parametrize("words", [["--help"], ["sft", "--help"], ["check", "recipe.yaml"], ["schema"]])
def test_nothing_heavy_is_imported(
    words: list[str], tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    write_recipe(tiny_recipe)
    code = (
        "import sys; from alignkit.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("HEAVY []")


def test_scoring_files_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "sys.txt").write_text("the cat sat\n")
    words = ["score", "--metric", "bleu", "--metric", "rougeL", "--predictions", "sys.txt", "--references", "sys.txt"]
    code = (
        "import sys; from alignkit.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("HEAVY []")
