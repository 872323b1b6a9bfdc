"""From a file, or a mapping, to a recipe that holds: every problem is found before the first is reported."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from alignkit import secrets
from alignkit.errors import Problem, UserError
from alignkit.recipe import rule, shipped, source
from alignkit.recipe.paths import defining_file, input_paths, local_path, put
from alignkit.recipe.recipe import EVALUATION_ONLY, Recipe
from alignkit.recipe.source import SET, Document, KeyPath
from alignkit.recipe.suggest import closest
from alignkit.recipe.wording import field_path, problems, shown

# Importing these registers their rules.
from alignkit.recipe import rules, task_rules  # noqa: F401  # isort: skip

Classes = Mapping[str, type[Recipe]]
NO_PLACE_FOR_SECRETS = (
    "holds a token, a URL with a password or a secret variable's value; a recipe is no place for a secret",
    "it would be copied into the run folder; log in with `hf auth login`, set HF_TOKEN, or use ~/.netrc",
)


def load(path: str | Path, classes: Classes, sets: Sequence[str] = (), method: str | None = None) -> Recipe:
    """Read the recipe at `path`, changed by `sets`, as the class that its `method` names.

    Where there is no such file, `path` may be the name of a shipped recipe (`tiny/sft`).

    Args:
        classes: method -> its recipe class.
        sets: changes, each `section.field=value`; the value is YAML.
        method: the command that runs it, which the recipe's `method` must equal; None to take what it says.

    Raises:
        UserError: with every problem found, each at its file and line.
    """
    place = Path(path)
    if not place.exists():
        place = shipped.find(place) or place
    return _validated(source.read(place, sets), classes, method)


def load_mapping(
    mapping: Mapping[str, Any], classes: Classes, base_dir: str | Path | None = None, method: str | None = None
) -> Recipe:
    """The same for a mapping; its relative input paths start from `base_dir` (the current folder by default)."""
    data = copy.deepcopy(dict(mapping))
    return _validated(Document(data, base_dir=Path(base_dir or Path.cwd())), classes, method)


def _validated(document: Document, classes: Classes, method: str | None) -> Recipe:
    if leaks := [document.problem(place, *NO_PLACE_FOR_SECRETS) for place in secrets.places(document.data)]:
        raise UserError(_in_order(leaks, document))  # alone: another problem's line might quote the value
    cls, found = _recipe_class(document, classes, method)
    if cls is None:
        raise UserError(found)
    try:
        recipe = _build(document, cls)
    except ValidationError as error:
        errors = [dict(one) for one in error.errors() if _worth_saying(one)]
        found += problems(errors, document, cls)
        found += _other_contradictions(document, cls, errors)
        raise UserError(_in_order(found, document)) from None
    found += [*_bare_sections(document, cls), *rule.check(recipe, document)]
    if not found:
        found += recipe.contradictions()
    if found:
        raise UserError(_in_order(found, document))
    return recipe


def _worth_saying(error: Mapping[str, Any]) -> bool:
    """Not what `_recipe_class` has said better, nor a default that only waits for a field that is wrong itself."""
    return error["loc"] != ("method",) and error["type"] != "default_factory_not_called"


def _recipe_class(
    document: Document, classes: Classes, method: str | None
) -> tuple[type[Recipe] | None, list[Problem]]:
    """The class to check against, and what is wrong with `method`; the command's serves where it is unclear."""
    name = document.data.get("method")
    known = ", ".join(classes)
    if "method" not in document.data and method is None and EVALUATION_ONLY in classes:
        return classes[EVALUATION_ONLY], []
    if "method" not in document.data:
        return classes.get(method or ""), [
            document.problem(
                ("method",), "is missing", f"say `method: {method}`" if method else f"it is one of {known}"
            )
        ]
    if not isinstance(name, str) or name not in classes:
        near = closest(name, classes) if isinstance(name, str) else None
        hint = f"did you mean {near}?" if near else f"the methods are {known}"
        return classes.get(method or near or ""), [
            document.problem(("method",), f"there is no method {shown(name)}", hint)
        ]
    if method is not None and name != method:
        message = f"this recipe is for {name}, not for {method}"
        return classes[name], [document.problem(("method",), message, f"run `alignkit {name} {document.path or ''}`")]
    return classes[name], []


def _build(document: Document, cls: type[Recipe]) -> Recipe:
    """The recipe; paths that an extended file or `--set` gives are first made absolute from where they were written."""
    recipe = cls.model_validate(document.data)
    moved = False
    for place, text in input_paths(recipe):
        written = document.written(place)
        home = _home(document, written)
        if home is None or (local := local_path(text, home)) is None:
            continue
        if document.place(place).file == SET and not (defining_file(local) or local).exists():
            continue
        put(document.data, written, str(local.absolute()))
        moved = True
    if moved:
        recipe = cls.model_validate(document.data)
    recipe._document = document
    return recipe


def _home(document: Document, path: KeyPath) -> Path | None:
    """The folder that a path is relative to, where not the recipe's own: an extended file's, or the current one."""
    file = document.place(path).file
    if file is None:
        return None
    if file == SET:
        return Path.cwd()
    folder = Path(file).parent
    return None if folder == document.base_dir else folder


def _bare_sections(document: Document, cls: type[Recipe]) -> list[Problem]:
    """`adapter:` with nothing below it: it may mean one with its defaults, or none."""
    hint = "leave the key out, say null for none, or {} for one with its defaults"
    return [
        document.problem(path, "nothing stands below this section", hint)
        for path in sorted(document.bare)
        if len(path) == 1 and path[0] in cls.model_fields and document.data.get(path[0], True) is None
    ]


def _at(value: Any, path: KeyPath) -> Any:
    for key in path:
        value = value[key]
    return value


def _other_contradictions(document: Document, cls: type[Recipe], errors: list[dict[str, Any]]) -> list[Problem]:
    """What does not go together in the part of a recipe that is right: it is built without the wrong values."""
    data = copy.deepcopy(document.data)
    wrong = [field_path(one, document) for one in errors]
    if "output_dir" not in data:
        data["output_dir"] = "?"  # no rule reads it
    for path in sorted(wrong, key=len, reverse=True):
        with contextlib.suppress(KeyError, IndexError, TypeError):
            parent = _at(data, path[:-1])
            if path and isinstance(parent, dict) and path != ("output_dir",):
                parent.pop(path[-1], None)
    try:
        recipe = cls.model_validate(data)
    except ValidationError:
        return []
    recipe._document = document
    return rule.check(recipe, document, wrong)


def _in_order(found: Sequence[Problem], document: Document) -> list[Problem]:
    """Each problem once, in the order of the file; those of extended files and of `--set` after the recipe's own."""
    files = [str(document.path), *(str(problem.file) for problem in found if problem.file is not None), "None"]
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda problem: (files.index(str(problem.file)), problem.line or 0))


def dump(recipe: Recipe) -> str:
    """Every value of the recipe as YAML, which loads to an equal recipe from any folder."""
    from io import StringIO

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style, writer.sort_base_mapping_type_on_output, writer.width = False, False, 120
    text = StringIO()
    writer.dump(recipe.resolved(), text)
    return "# Every value that was used, alignkit's and upstream's defaults among them.\n" + text.getvalue()
