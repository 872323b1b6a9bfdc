"""A model's name: a local folder, or a Hub id that the local cache may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

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


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The local cache's folder for a Hub model, or None. The layout is huggingface_hub's (`models--ORG--NAME`)."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    repository = cache.expanduser() / ("models--" + name.replace("/", "--"))
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "main")
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
