"""Which values of a recipe are input paths, and the local places that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from alignkit.recipe.base import InputPath, Section, UpstreamSection, plain

Place = tuple[str | int, ...]


def local_path(value: str, base_dir: Path) -> Path | None:
    """The local file, folder or glob that `value` names, or None for a Hub id.

    It is local if it exists in `base_dir`, starts with `.`, `/` or `~`, or is a glob there. `FILE.py:NAME` stands for
    what that file defines, and is as local as the file.
    """
    path = base_dir / Path(value).expanduser()
    if (file := defining_file(path)) is not None and file.exists():
        return path
    if value.startswith((".", "/", "~")) or path.exists():
        return path
    head = Path(*_parts_before_glob(value))
    return path if any(mark in value for mark in "*?[") and (base_dir / head).is_dir() else None


def defining_file(path: Path) -> Path | None:
    """The file of a `FILE.py:NAME`; None for other paths."""
    file, colon, _ = str(path).rpartition(":")
    return Path(file) if colon and file.endswith(".py") else None


def _parts_before_glob(value: str) -> Iterator[str]:
    for part in Path(value).parts:
        if any(mark in part for mark in "*?["):
            return
        yield part


def input_paths(section: Section, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """(place, value) of every input path in a section and the sections below it."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if _is_path(info):
            yield from _texts(value, (*place, name))
        elif isinstance(value, Section) and not isinstance(value, UpstreamSection):
            yield from input_paths(value, (*place, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Section):
                    yield from input_paths(item, (*place, name, index))


def _is_path(info: FieldInfo) -> bool:
    return any(isinstance(mark, InputPath) for mark in info.metadata) or _marked(info.annotation)


def _marked(annotation: Any) -> bool:
    marks = getattr(annotation, "__metadata__", ())
    return any(isinstance(mark, InputPath) for mark in marks) or any(_marked(arg) for arg in get_args(annotation))


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                yield (*place, index), item


def with_absolute_paths(section: Section, base_dir: Path) -> dict[str, Any]:
    """The section's values as plain data, local input paths made absolute."""
    values = {name: plain(value) for name, value in section}
    for place, text in input_paths(section):
        if (local := local_path(text, base_dir)) is not None:
            put(values, place, str(local.absolute()))
    return values


def put(values: Any, place: Place, value: Any) -> None:
    """Replace what stands at `place` in nested mappings and lists."""
    for key in place[:-1]:
        values = values[key]
    values[place[-1]] = value
