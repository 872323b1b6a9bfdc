"""From a recipe to what `alignkit inspect` shows: examples, counts, warnings. No model is loaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit import launch, methods
from alignkit.inspection.tokens import TokenTexts
from alignkit.inspection.views import Reader, Shown, View, view_of
from alignkit.inspection.warnings import warnings
from alignkit.methods.base import Stage
from alignkit.models.tokenizer import build_tokenizer, settle_tokenizer
from alignkit.runs import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignkit.data import MaskingInfo, Prepared
    from alignkit.recipe import Recipe


@dataclass(frozen=True)
class Inspection:
    """What a recipe's data comes to."""

    recipe: Recipe
    view: View
    split: str
    shown: list[Shown]
    counts: dict[str, Any]
    template: MaskingInfo | None
    tokenizer: str
    notes: list[str]
    warnings: list[str]


def gather(recipe: Recipe, examples: int, split: str, say: Callable[[str], None]) -> Inspection:
    """Prepare the recipe's data, as training does (from the cache the second time), and look at it.

    Args:
        examples: how many of the split's first ones are shown.
        split: train or eval.

    Raises:
        UserError: a tokenizer or data that training would refuse too, or no such split.
    """
    notes: list[str] = []
    tokenizer = tokenizer_of(recipe, notes)
    method = methods.get(recipe.method)
    stage: Any = Stage(recipe, Run(recipe.output_dir), say, precision=None, arguments=None, tokenizer=tokenizer)  # type: ignore[arg-type]
    prepared = method.prepare(stage)
    rows, columns = _rows(recipe, prepared, split)
    view = view_of(columns)
    reader = Reader(tokenizer, TokenTexts(tokenizer))
    shown = list(itertools.islice(itertools.chain.from_iterable(view.show(row, reader) for row in rows), examples))
    return Inspection(
        recipe=recipe,
        view=view,
        split=split,
        shown=shown,
        counts=prepared.counts,
        template=prepared.template,
        tokenizer=f"{tokenizer.name_or_path} ({type(tokenizer).__name__}, {len(tokenizer):,} tokens)",
        notes=[*notes, *(prepared.template.notes if prepared.template else ())],
        warnings=warnings(prepared, tokenizer),
    )


def _rows(recipe: Recipe, prepared: Prepared, split: str) -> tuple[Iterator[dict[str, Any]], list[str]]:
    from alignkit.errors import UserError

    data = prepared.train if split == "train" else prepared.eval
    if data is None:
        raise UserError(recipe.problem("data", "there is no eval split", "give data.eval or data.eval_fraction"))
    return iter(data), list(data.column_names or data.features)


def tokenizer_of(recipe: Recipe, notes: list[str]) -> PreTrainedTokenizerBase:
    """The tokenizer that training will use. What `model.from_recipe` names need not be trained for it."""
    model = recipe.model
    if model.from_recipe is None or model.tokenizer_name_or_path is not None:
        return build_tokenizer(recipe, notes=notes)
    launch.refuse_circle(recipe)
    other = methods.load_recipe(Path(recipe.base_dir / model.from_recipe))
    return settle_tokenizer(recipe, tokenizer_of(other, notes), notes)
