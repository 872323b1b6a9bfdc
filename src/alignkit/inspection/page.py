"""An inspection as one self-contained page: no script, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignkit.inspection.gather import Inspection
from alignkit.inspection.text import count_lines, masking_lines, visible
from alignkit.inspection.views import Part, segments

TEMPLATES = Path(__file__).parent


def page(found: Inspection) -> str:
    """The page's HTML. Texts are escaped by the template."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )

    def pieces(part: Part) -> list[Any]:
        return list(segments(part.tokens, found.template.stop_token if found.template else None, found.view))

    name = found.recipe.path.name if found.recipe.path else "recipe"
    return environment.get_template("page.html.jinja").render(
        name=name,
        found=found,
        pieces=pieces,
        visible=visible,
        splits=[(part, counts) for part in ("train", "eval") if (counts := found.counts.get(part))],
        count_lines=count_lines,
        masking=list(masking_lines(found.template)),
    )
