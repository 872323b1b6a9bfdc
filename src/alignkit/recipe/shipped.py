"""The recipes, Accelerate configs and schema that come with alignkit: in a wheel beside the code, else above it.

A shipped recipe's first comment says what it is for; a line of it that begins with `Memory:` says what it runs on (for
the ones under tiny/ a CPU, without saying).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from alignkit.errors import Problem, UserError

SCHEMA_LINE = "# yaml-language-server: $schema="
ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class ShippedRecipe:
    """One recipe: `tiny/sft`, its method, what it is for, and the class of machine that it needs."""

    name: str
    path: Path
    method: str
    about: str
    memory: str


def folder(kind: Literal["recipes", "accelerate_configs", "schema"]) -> Path:
    """Where the shipped files of a kind lie."""
    package = Path(__file__).parents[1]
    return package / kind if (package / kind).is_dir() else package.parents[1] / kind


def shipped_recipes() -> list[ShippedRecipe]:
    """All of them, the ones that need no download first."""
    root = folder("recipes")
    found = [_described(root, path) for path in sorted(root.rglob("*.yaml"))]
    return sorted(found, key=lambda one: (not one.name.startswith("tiny/"), one.name))


def _described(root: Path, path: Path) -> ShippedRecipe:
    text = path.read_text(encoding="utf-8")
    comment = [line.lstrip("# ") for line in _head(text) if not line.startswith(SCHEMA_LINE)]
    said = (line.removeprefix("Memory:").strip() for line in comment if line.startswith("Memory:"))
    memory = next(said, "CPU" if path.parent.name == "tiny" else "")
    about = " ".join(line for line in comment if not line.startswith("Memory:"))
    return ShippedRecipe(str(path.relative_to(root).with_suffix("")), path, _method(path), about, memory)


def _method(path: Path) -> str:
    """The method that a recipe names, or the one that it extends: read as text, for listing must be quick."""
    text = path.read_text(encoding="utf-8")
    if method := re.search(r"^method:\s*(\w+)", text, re.MULTILINE):
        return method[1]
    base = re.search(r"^extends:\s*(\S+)", text, re.MULTILINE)
    return _method(path.parent / base[1]) if base else ""


def _head(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def find(name: str | Path) -> Path | None:
    """The shipped recipe that `name` means (`tiny/sft`, `tiny/sft.yaml`, `recipes/tiny/sft.yaml`), or None."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    path = folder("recipes") / f"{_plain(name)}.yaml"
    return path if path.is_file() else None


def nearest(name: str | Path) -> str | None:
    """The shipped recipe whose name is most like `name`, if one is close."""
    names = [str(path.relative_to(folder("recipes")).with_suffix("")) for path in folder("recipes").rglob("*.yaml")]
    close = get_close_matches(_plain(name), names, n=1, cutoff=0.6)
    return close[0] if close else None


def require(name: str) -> Path:
    """Like `find`, for a name that must be there. Raises UserError, with the nearest."""
    if (found := find(name)) is not None:
        return found
    close = nearest(name)
    hint = f"did you mean {close}?" if close else "`alignkit recipes` lists them"
    raise UserError(Problem(f"there is no shipped recipe {name}", hint=hint))


def _plain(name: str | Path) -> str:
    text = str(name).removeprefix("./").removeprefix("recipes/")
    return next((text.removesuffix(ending) for ending in ENDINGS if text.endswith(ending)), text)


def copy(name: str, to: Path) -> list[Path]:
    """Copy a shipped recipe into the folder `to`, with the shipped files that it names; returns what was written.

    Raises:
        UserError: no such recipe, a file of that name is there, or the folder cannot be written.
    """
    path = require(name)
    files = [path, *_named_by(path, {path})]
    top = max((one.parent for one in files), key=lambda one: -len(one.parts))
    places = {one: to / one.relative_to(top) for one in files}
    if taken := [place for place in places.values() if place.exists()]:
        raise UserError([Problem("is there already", place, hint="name another folder") for place in taken])
    try:
        for source, place in places.items():
            _copy_file(source, place)
    except OSError as error:
        raise UserError(Problem(f"cannot write there: {error.strerror}", to)) from error
    return list(places.values())


def _copy_file(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix not in ENDINGS:
        shutil.copyfile(source, place)
        return
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    place.write_text("".join(map(_with_schema, lines)), encoding="utf-8")


def _with_schema(line: str) -> str:
    """Editors look for the schema from the file's place: name where it really is."""
    return f"{SCHEMA_LINE}{folder('schema') / 'recipe.json'}\n" if line.startswith(SCHEMA_LINE) else line


def _named_by(path: Path, seen: set[Path]) -> Iterator[Path]:
    """The shipped files that a recipe names, and those that they name."""
    for text in _texts(YAML(typ="safe").load(path.read_text(encoding="utf-8"))):
        other = (path.parent / text.split(":")[0]).resolve() if len(text) < 200 else path
        if other not in seen and other.is_file() and folder("recipes") in other.parents:
            seen.add(other)
            yield other
            if other.suffix in ENDINGS:
                yield from _named_by(other, seen)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
