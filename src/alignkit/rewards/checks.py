"""What a recipe's files alone can tell to be wrong with its rewards. Imports no torch, and runs no user's code."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import Problem, UserError
from alignkit.examples.types import did_you_mean
from alignkit.metrics.answers import extractor
from alignkit.recipe import RewardSection, local_path
from alignkit.recipe.paths import defining_file
from alignkit.recipe.rewards import OnlineRecipe
from alignkit.rewards.functions.registry import BUILT_IN
from alignkit.rewards.functions.shape import LANGUAGES

Options = Mapping[str, inspect.Parameter]
NUMBERS = {"float": (int, float), "int": (int,)}
MODEL_OPTIONS = ("batch_size", "revision")


def problems(recipe: OnlineRecipe) -> Iterator[Problem]:
    """Every problem of `rewards:` and of `training.answer`."""
    if recipe.training.answer is not None:
        yield from _refusal(recipe, "training.answer", recipe.training.answer)
    for index, section in enumerate(recipe.rewards):
        at = f"rewards.{index}"
        if section.kind == "name":
            yield from _built_in(recipe, at, section)
        elif section.kind == "file":
            yield from _file(recipe, at, section)
        elif section.kind == "judge":
            yield from _judge(recipe, at, section)
        elif section.kind in ("model", "from_recipe"):
            if section.from_recipe is not None and not (recipe.base_dir / section.from_recipe).is_file():
                message = f"there is no file {recipe.base_dir / section.from_recipe}"
                yield recipe.problem(f"{at}.from_recipe", message, "paths are relative to the recipe's file")
            yield from _unknown(recipe, at, section.options, MODEL_OPTIONS)
            if section.timeout is not None:
                yield recipe.problem(f"{at}.timeout", "a reward model can't be stopped in between", "leave it out")


def _refusal(recipe: OnlineRecipe, field: str, how: Any) -> Iterator[Problem]:
    try:
        extractor(str(how))
    except UserError as error:
        for problem in error.problems:
            yield recipe.problem(field, problem.message, problem.hint)


def _unknown(recipe: OnlineRecipe, at: str, options: Iterable[str], known: Iterable[str]) -> Iterator[Problem]:
    known = list(known)
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known) or f"it takes {', '.join(known) or 'none'}"
            yield recipe.problem(f"{at}.options.{name}", "there is no such option", hint)


# ---------------------------------------------------------------------- built-in functions
def _built_in(recipe: OnlineRecipe, at: str, section: RewardSection) -> Iterator[Problem]:
    name = str(section.name)
    built_in = BUILT_IN[name]
    known = built_in.options()
    yield from _unknown(recipe, at, section.options, known)
    for option, parameter in known.items():
        if option not in section.options:
            if parameter.default is parameter.empty and option != "run_code":
                yield recipe.problem(f"{at}.options", f"{name} needs {option}", f"options: {{{option}: …}}")
        elif wrong := _wrong_type(section.options[option], str(parameter.annotation)):
            yield recipe.problem(f"{at}.options.{option}", wrong)
    if section.column is not None and not set(built_in.takes) - {"tokens"}:
        yield recipe.problem(f"{at}.column", f"{name} compares with no column", "leave it out")
    yield from _values(recipe, at, name, section.options)


def _values(recipe: OnlineRecipe, at: str, name: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    if options.get("answer") is not None:
        yield from _refusal(recipe, f"{at}.options.answer", options["answer"])
    if name == "regex" and isinstance(options.get("pattern"), str):
        try:
            re.compile(options["pattern"])
        except re.error as error:
            yield recipe.problem(f"{at}.options.pattern", f"is not a regular expression: {error}")
    if name == "language" and options.get("expected") not in (None, *LANGUAGES):
        yield recipe.problem(f"{at}.options.expected", f"is one of {', '.join(LANGUAGES)}")
    if name == "length" and options.get("unit") not in (None, "tokens", "words", "characters"):
        yield recipe.problem(f"{at}.options.unit", "is one of tokens, words, characters")
    if name == "length" and "min" not in options and "max" not in options:
        yield recipe.problem(f"{at}.options", "length needs min, max or both", None)
    if name == "json_schema" and isinstance(options.get("schema"), dict):
        yield from _schema(recipe, at, options["schema"])
    if name == "code_tests" and options.get("run_code") is not True:
        message = "code_tests runs code that the model wrote on this machine; its limits are no security boundary"
        yield recipe.problem(f"{at}.options", message, "say options: {run_code: true} to allow it")


def _schema(recipe: OnlineRecipe, at: str, schema: dict[str, Any]) -> Iterator[Problem]:
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        yield recipe.problem(f"{at}.options.schema", f"is no JSON Schema: {error.message}")


def _wrong_type(value: Any, annotation: str) -> str | None:
    """Why an option's value is of the wrong type; None where it fits its annotation (`int | None`, `str`, …)."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    for kind in kinds:
        if kind == "None" and value is None:
            return None
        if kind == "bool" and isinstance(value, bool):
            return None
        if kind in NUMBERS and isinstance(value, NUMBERS[kind]) and not isinstance(value, bool):
            return None
        if kind == "str" and isinstance(value, str):
            return None
        if kind.startswith("Sequence[str") and isinstance(value, list) and all(isinstance(one, str) for one in value):
            return None
        if kind.startswith("dict") and isinstance(value, dict):
            return None
    words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text", "None": "nothing"}
    expected = " or ".join(words.get(kind, "a list of texts" if "Sequence" in kind else "a mapping") for kind in kinds)
    return f"expected {expected}, got {value!r}"


# ---------------------------------------------------------------------- files and judges
def _file(recipe: OnlineRecipe, at: str, section: RewardSection) -> Iterator[Problem]:
    field, value = f"{at}.file", str(section.file)
    if ":" not in value:
        yield recipe.problem(field, "names no function", f"say {value}:NAME")
        return
    place = local_path(value, recipe.base_dir)
    file = None if place is None else defining_file(place)
    if file is None or not file.is_file():
        where = recipe.base_dir / value.rpartition(":")[0]
        yield recipe.problem(field, f"there is no file {where}", "paths are relative to the recipe's file")
        return
    yield from _function(recipe, field, file, value.rpartition(":")[2], section.options)


def _function(recipe: OnlineRecipe, field: str, file: Path, name: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        yield Problem(f"not valid Python: {error.msg}", file, error.lineno, field)
        return
    except ValueError as error:  # bytes that are no text
        yield Problem(f"not valid Python: {error}", file, None, field)
        return
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    others = {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", ())
              if isinstance(alias, ast.alias)}  # fmt: skip
    others |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    others |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in functions:
        if name not in others and "*" not in others:
            hint = did_you_mean(name, functions) or f"it defines {', '.join(functions) or 'no function'}"
            yield recipe.problem(field, f"{file.name} has no function {name}", hint)
        return
    arguments = functions[name].args
    if arguments.kwarg is None:
        known = {one.arg for one in (*arguments.args, *arguments.kwonlyargs)}
        for option in options:
            if option not in known:
                hint = did_you_mean(option, known) or "or give it **kwargs"
                yield recipe.problem(field.replace(".file", f".options.{option}"), f"{name} takes no {option}", hint)
        message = f"{name} takes no **kwargs: it is called with prompts, completions, completion_ids and every column"
        yield Problem(message, file, functions[name].lineno, "rewards.file", "add **kwargs to its arguments")


def _judge(recipe: OnlineRecipe, at: str, section: RewardSection) -> Iterator[Problem]:
    from alignkit.rewards.judge import Judge

    parameters = inspect.signature(Judge).parameters
    known = {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    yield from _unknown(recipe, at, section.options, known)
    url = section.options.get("base_url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        yield recipe.problem(f"{at}.options.base_url", "must be the endpoint's address", "http://localhost:8000/v1")
    for option, value in section.options.items():
        if option in known and option != "base_url" and (wrong := _wrong_type(value, str(known[option].annotation))):
            yield recipe.problem(f"{at}.options.{option}", wrong)
    variable = section.options.get("api_key_env")
    if isinstance(variable, str) and not os.environ.get(variable):
        yield recipe.problem(f"{at}.options.api_key_env", f"the environment has no {variable}", f"export {variable}=…")
