"""Two small methods' recipes, and a helper, for the tests of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from alignkit.errors import UserError
from alignkit.recipe import Recipe, load


class SftRecipe(Recipe):
    method: Literal["sft"]
    training_config: ClassVar[str] = "SFTConfig"
    can_pack: ClassVar[bool] = True


class DpoRecipe(Recipe):
    method: Literal["dpo"]
    training_config: ClassVar[str] = "DPOConfig"


CLASSES: dict[str, type[Recipe]] = {"sft": SftRecipe, "dpo": DpoRecipe}
START = "method: sft\noutput_dir: runs/x\nmodel: {model_name_or_path: some/model}\n"  # lines 1 to 3


def refusal(text: str, folder: Path, sets: tuple[str, ...] = (), **options: Any) -> list[str]:
    """The problems of a recipe with this text, the folder left out of their file names."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path, CLASSES, sets, **options)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def loaded(text: str, folder: Path, sets: tuple[str, ...] = ()) -> Any:
    """The recipe with this text."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, CLASSES, sets)
