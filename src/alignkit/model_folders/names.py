"""A model's name: a local folder, or a Hub id that the local cache may hold."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import Problem

if TYPE_CHECKING:
    from alignkit.recipe import Recipe

PACKAGED = "alignkit:"
TOKENIZERS = Path(__file__).parents[1] / "assets" / "tokenizers"

_HUB_ID = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?(?:/[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?)?")


def model_place(name: str, base_dir: Path) -> Path | None:
    """The local folder that `name` means, or None for a Hub id.

    A name that starts with `.`, `/` or `~` is a folder, relative ones from the recipe's file; another name is a folder
    if one of that name exists beside the recipe's file, and a Hub id otherwise.
    """
    path = Path(name).expanduser()
    if name.startswith((".", "~")) or path.is_absolute() or (base_dir / path).is_dir():
        return (base_dir / path).absolute()
    return None


def start_of(recipe: Recipe, start: str | Path | None = None) -> str | None:
    """The folder (absolute) or Hub id that training starts from; None for `init: random`.

    `start` is the result of another recipe (`model.from_recipe`), once that one is trained. A run folder stands for
    its `model/`.
    """
    name = str(start) if start is not None else recipe.model.model_name_or_path
    if name is None:
        return None
    place = Path(name).absolute() if start is not None and Path(name).is_dir() else model_place(name, recipe.base_dir)
    return name if place is None else str(result_folder(place))


def result_folder(path: Path) -> Path:
    """The folder with config and weights: `path` itself, or `path/model` where `path` is a run folder."""
    is_model = (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
    return path / "model" if not is_model and (path / "model").is_dir() else path


def is_hub_id(name: str) -> bool:
    """Whether `name` is written as a Hub id is: NAME or ORGANISATION/NAME."""
    return bool(_HUB_ID.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def hub_offline() -> bool:
    """Whether huggingface_hub was told to stay offline."""
    words = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(word.upper() in {"1", "ON", "YES", "TRUE"} for word in words)


def nowhere(name: str) -> Problem | None:
    """What is wrong with a name given to a command: no folder here has it, and no Hub model that can be had.

    Where the Hub may be asked, a name that is near a folder's, and without an organisation, is taken for a slip.
    """
    path = Path(name).expanduser()
    if path.exists() or cached_snapshot(name) is not None:
        return None
    near = _near_folders(name)
    local = name.startswith((".", "/", "~"))
    if not local and not hub_offline() and is_hub_id(name) and ("/" in name or not near):
        return None
    hub = "" if local else ", and no cached Hub model of that name"
    message = "no such run or model folder" if local else f"no run, no model folder{hub}"
    return Problem(message, file=name, hint=f"did you mean {' or '.join(near)}?" if near else None)


def _near_folders(name: str) -> list[str]:
    """Folders here, in `runs/`, and beside what the name says, whose names are much like it."""
    wanted = Path(name).expanduser()
    places = dict.fromkeys([Path(), Path("runs"), wanted.parent])
    found = {str(folder): folder.name for place in places if place.is_dir() for folder in place.iterdir()
             if folder.is_dir() and not folder.name.startswith(".")}  # fmt: skip
    close = get_close_matches(wanted.name.casefold(), [one.casefold() for one in found.values()], n=3, cutoff=0.6)
    return [path for path, one in found.items() if one.casefold() in close][:3]


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The local cache's folder for a Hub model, or None. The layout is huggingface_hub's (`models--ORG--NAME`)."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    repository = cache.expanduser() / ("models--" + name.replace("/", "--"))
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "main")
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
