"""Draw docs/inspect.svg: what `alignkit inspect RECIPE` prints in a terminal with colour.

python scripts/picture_of_inspect.py RECIPE [EXAMPLES]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from alignkit import api
from alignkit.inspection import inspect
from alignkit.inspection.text import print_inspection

found = inspect(api.load_recipe(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
screen = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100, record=True)
print_inspection(found, screen)
out = Path(__file__).parents[1] / "docs" / "inspect.svg"
screen.save_svg(str(out), title=f"alignkit inspect {Path(sys.argv[1]).name}")
print(out)
