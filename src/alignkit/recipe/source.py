"""YAML with the line of every key and item: reading, `extends:`, `--set`. Nothing here knows what a recipe means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from alignkit.errors import Problem, UserError
from alignkit.recipe import shipped

KeyPath = tuple[Any, ...]
SET = "--set"
TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a line of a file, or `--set` on the command line."""

    file: str | None = None
    line: int | None = None


@dataclass
class Document:
    """A recipe's values and where each of them was written."""

    data: dict[Any, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    bare: set[KeyPath] = field(default_factory=set)  # keys with nothing after the colon, not even `null`
    path: Path | None = None
    base_dir: Path = field(default_factory=Path.cwd)

    def place(self, path: KeyPath) -> Place:
        """Where `path` was written, or else the nearest thing around it that was."""
        path = self.written(path)
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return Place(str(self.path), 1) if self.path else Place()

    def written(self, path: KeyPath) -> KeyPath:
        """`path` as the user wrote it: without the steps into what a shorter form stands for."""
        value: Any = self.data
        kept: list[Any] = []
        for key in path:
            if isinstance(value, str) or (isinstance(key, int) and isinstance(value, dict) and key not in value):
                continue  # a bare path for a source, or one source for a list of them
            kept.append(key)
            value = _child(value, key)
        return tuple(kept)

    def problem(self, path: KeyPath, message: str, hint: str | None = None, at: KeyPath | None = None) -> Problem:
        """A problem with the value at `path`, placed at its own line or at that of `at`."""
        place, name = self.place(path if at is None else at), dotted(self.written(path))
        if place.file == SET:
            return Problem(message, field=f"{SET} {name}", hint=hint)
        return Problem(message, place.file, place.line, name or None, hint)


def dotted(path: KeyPath) -> str:
    """`data.train.0.path`."""
    return ".".join(str(key) for key in path)


def as_path(name: str) -> KeyPath:
    """The inverse of `dotted`: parts that are numbers are indices."""
    return tuple(int(part) if part.isdigit() else part for part in name.split(".") if part)


def _child(value: Any, key: Any) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


# ---------------------------------------------------------------------- one file
def read(path: Path, sets: Sequence[str] = ()) -> Document:
    """The recipe at `path`, with what it extends, changed by `sets`.

    Raises:
        UserError: a file that is missing, unreadable or not YAML; duplicate keys; a cycle of `extends`; a bad `--set`.
    """
    document = _read_extended(path, ())
    document.path, document.base_dir = path, path.parent
    problems = [problem for one in sets if (problem := apply_set(document, one)) is not None]
    if problems:
        raise UserError(problems)
    return document


def _read_extended(path: Path, above: tuple[Path, ...], at: Problem | None = None) -> Document:
    """One file and the files it extends; `above` are those that extend it, `at` where the last of them says so."""
    if path.resolve() in [one.resolve() for one in above]:
        chain = " -> ".join(one.name for one in (*above, path))
        raise UserError(_with_message(at, f"goes round in a circle: {chain}"))
    document = parse(_text(path, at), str(path))
    if "extends" not in document.data:
        return document
    base = document.data.pop("extends")
    if not isinstance(base, str) or not base:
        raise UserError(document.problem(("extends",), f"expected the path of another recipe, got {base!r}"))
    other = Path(os.path.normpath(path.parent / Path(base).expanduser()))
    return merge(_read_extended(other, (*above, path), document.problem(("extends",), "")), document)


def _with_message(at: Problem | None, message: str, hint: str | None = None) -> Problem:
    assert at is not None, "only an extended file can close a circle"
    return Problem(message, at.file, at.line, at.field, hint)


def _text(path: Path, at: Problem | None) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(Problem("not UTF-8 text", path, line)) from error
    except OSError as error:
        what = "is a folder, not a recipe" if path.is_dir() else "there is no such file"
        if isinstance(error, PermissionError):
            what = "may not be read (permission denied)"
        names = [one.name for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        close = get_close_matches(path.name, names, n=1, cutoff=0.5) or get_close_matches(
            f"{path.name}.yaml", names, n=1
        )
        hint = f"did you mean {path.parent / close[0]}?" if close and not path.is_dir() else None
        if hint is None and at is None and not path.exists() and (known := shipped.nearest(path)) is not None:
            hint = f"did you mean the shipped recipe {known}?"
        problem = Problem(what, path, hint=hint) if at is None else _with_message(at, f"{path}: {what}", hint)
        raise UserError(problem) from error


def parse(text: str, file: str) -> Document:
    """YAML text as values and places.

    Raises:
        UserError: the text is not YAML, holds a key twice, or is no mapping.
    """
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        raise UserError(_syntax_problem(error, text, file)) from error
    if root is None:
        raise UserError(Problem("the recipe is empty", file))
    if not isinstance(root, MappingNode):
        raise UserError(Problem("a recipe is a mapping of sections (`model:`, `data:`, …)", file, _line(root)))
    reader = _Reader(file)
    data = reader.value(root, ())
    if reader.problems:
        raise UserError(reader.problems)
    return Document(data, reader.places, reader.bare)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    """One line for what ruamel needs several for."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or "holds a character that YAML does not allow"
    line = None if mark is None else mark.line + 1
    if mark is None and (position := getattr(error, "position", None)) is not None:
        line = text[:position].count("\n") + 1
    hint = None
    if "'\\t'" in what:
        what, hint = "a tab cannot indent", "use spaces"
    elif "mapping values are not allowed" in what:
        what, hint = "a second `:` in one line", "put text that holds `: ` in quotes"
    elif "expected <block end>" in what:
        what, hint = "this line does not fit the ones before it", "check its indentation"
    elif "unexpected end of stream" in what or "expected ',' or" in what:
        opened = getattr(error, "context_mark", None)
        line = opened.line + 1 if opened is not None else line
        what = "a quote or bracket that begins here is not closed"
    elif "but found another document" in what:
        what = "a recipe is one YAML document; there is a second one after `---`"
    elif "undefined alias" in what:
        what = what.replace("found undefined alias", "there is no anchor for the alias")
    return Problem(f"not valid YAML: {what}", file, line, hint=hint)


class _Reader:
    """Turns YAML nodes into values, noting where each stands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[KeyPath, Place] = {}
        self.bare: set[KeyPath] = set()
        self.problems: list[Problem] = []
        self.open: list[int] = []  # the nodes being read: an alias to one of them has no end
        self.constructor = YAML(typ="safe", pure=True).constructor

    def value(self, node: Node, path: KeyPath) -> Any:
        self.places.setdefault(path, Place(self.file, _line(node)))
        if id(node) in self.open:
            self.refuse(node, path, "an alias that holds itself")
            return None
        self.open.append(id(node))
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self.scalar(node, path)
        finally:
            self.open.pop()

    def refuse(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(message, self.file, _line(node), dotted(path) or None))

    def scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        tag = str(node.tag)
        if node.value == "" and tag == TAG + "null":
            self.bare.add(path)
        if tag in (TAG + "str", TAG + "timestamp", TAG + "value", TAG + "merge"):
            return node.value
        if tag not in (TAG + "null", TAG + "bool", TAG + "int", TAG + "float"):
            self.refuse(node, path, f"the tag {tag.replace(TAG, '!!')} means nothing in a recipe")
            return None
        return self.constructor.construct_object(node)

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if str(key_node.tag) == TAG + "merge":
                merged.append(value_node)
                continue
            if not isinstance(key_node, ScalarNode):
                self.refuse(key_node, path, "a key must be a plain word")
                continue
            key = self.scalar(key_node, path)
            if key in lines:
                message = f"given twice: first in line {lines[key]}, again here"
                self.refuse(key_node, (*path, key), message)
                continue
            lines[key] = _line(key_node)
            self.places[(*path, key)] = Place(self.file, lines[key])
            found[key] = self.value(value_node, (*path, key))
        for value_node in merged:
            for one in value_node.value if isinstance(value_node, SequenceNode) else [value_node]:
                if isinstance(one, MappingNode):
                    self.merge_in(one, path, found)
                else:
                    self.refuse(one, path, "`<<:` takes a mapping")
        return found

    def merge_in(self, node: MappingNode, path: KeyPath, found: dict[Any, Any]) -> None:
        """YAML's `<<: *anchor`: the anchor's keys, where the mapping has none of its own."""
        other = _Reader(self.file)
        other.open = list(self.open)
        for key, value in other.value(node, path).items():
            if key not in found:
                found[key] = value
                self.places |= {at: place for at, place in other.places.items() if at[: len(path) + 1] == (*path, key)}
        self.problems += other.problems


# ---------------------------------------------------------------------- several layers
def merge(base: Document, over: Document) -> Document:
    """`over` on top of `base`: mappings are merged, anything else is replaced; places stay those of the files."""
    places = dict(base.places)
    data = _merge(base.data, over.data, (), places, over.places)
    return Document(data, places, over.bare | {path for path in base.bare if path not in over.places})


def _merge(base: Any, over: Any, path: KeyPath, places: dict[KeyPath, Place], new: dict[KeyPath, Place]) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        result = dict(base)
        for key, value in over.items():
            result[key] = _merge(base.get(key), value, (*path, key), places, new)
        if path in new:
            places[path] = new[path]
        return result
    for old in [one for one in places if one[: len(path)] == path]:
        del places[old]
    places |= {one: place for one, place in new.items() if one[: len(path)] == path}
    return over


def apply_set(document: Document, text: str) -> Problem | None:
    """Change `document` by one `section.field=value`; the problem with it, or None."""
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not name or not all(name.split(".")):
        return Problem(f"expected section.field=value, got {text!r}", field=SET)
    try:
        node = YAML(typ="safe", pure=True).compose(raw)
    except YAMLError as error:
        return Problem(f"the value is {_syntax_problem(error, raw, '').message}", field=f"{SET} {name}")
    reader = _Reader(SET)
    path = as_path(name)
    value = None if node is None else reader.value(node, path)
    if reader.problems:
        return Problem(reader.problems[0].message, field=f"{SET} {name}")
    target: Any = document.data
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        wrong = _cannot_enter(target, key, path[:depth])
        if wrong is not None:
            return Problem(wrong, field=f"{SET} {name}")
        if last:
            target[key] = value
        else:
            if isinstance(target, dict) and target.get(key) is None:
                target[key] = {}
                document.places[path[: depth + 1]] = Place(SET)
            target = target[key]
    for old in [one for one in document.places if one[: len(path)] == path]:
        del document.places[old]
    document.places |= {at: Place(SET) for at in reader.places} | {path: Place(SET)}
    return None


def _cannot_enter(target: Any, key: Any, path: KeyPath) -> str | None:
    """Why `key` cannot be set in `target`, which stands at `path`; None if it can."""
    if isinstance(target, dict):
        return None
    name = dotted(path)
    if isinstance(target, list):
        if isinstance(key, int) and key < len(target):
            return None
        count = f"{len(target)} item{'s' if len(target) != 1 else ''}, counted from 0"
        return (
            f"{name} is a list ({count}): say which one, as in {name}.0"
            if not isinstance(key, int)
            else (f"{name} has only {count}")
        )
    return f"{name} is {target!r}, which has no fields"
