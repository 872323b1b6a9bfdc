"""`alignkit inspect`: a recipe's data as the model will see it, before a run is paid for.

The walk: `gather` prepares the data as training does and takes the first examples; `views` says how rows of each shape
are shown; `warnings` looks for what a person would want to know; `text` and `page` write it down.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.console import Voice, logged_to, redirect_libraries
from alignkit.errors import Problem, UserError
from alignkit.importing import importing
from alignkit.launch import set_environment

if TYPE_CHECKING:
    from alignkit.inspection.gather import Inspection
    from alignkit.recipe import Recipe


def inspect(recipe: Recipe, examples: int = 3, split: str = "train") -> Inspection:
    """Prepare the data of `recipe` and look at it; loads no model.

    Raises:
        UserError: what training would refuse about the tokenizer and the data.
    """
    set_environment()
    with logged_to(Path(os.devnull)), contextlib.closing(Voice()) as say:
        say("loading the tokenizer")
        with importing():
            import datasets  # noqa: F401  # which preparing the data would import in a moment

            from alignkit.inspection.gather import gather

        redirect_libraries()
        return gather(recipe, examples, split, say)


def command(recipe: Recipe, examples: int, split: str, as_json: bool, html: Path | None) -> None:
    """Print it, as text or JSON; with `html`, write the page too."""
    found = inspect(recipe, examples, split)
    if html is not None:
        from alignkit.inspection.page import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise UserError(Problem(f"cannot write there: {error.strerror}", html, field="--html")) from error
    if as_json:
        print(json.dumps(as_plain(found), indent=2, ensure_ascii=False, default=str))
        return
    from alignkit.inspection.text import console, print_inspection

    print_inspection(found, console())
    if html is not None:
        print(f"page: {html}")


def as_plain(found: Inspection) -> dict[str, Any]:
    """An inspection as plain data."""
    return {
        "recipe": str(found.recipe.path) if found.recipe.path else None,
        "method": found.recipe.method,
        "rows": found.view.name,
        "split": found.split,
        "tokenizer": found.tokenizer,
        "masking": None if found.template is None else asdict(found.template),
        "notes": found.notes,
        "warnings": found.warnings,
        "counts": found.counts,
        "examples": [asdict(shown) for shown in found.shown],
    }
