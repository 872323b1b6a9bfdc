"""Write src/alignkit/recipe/upstream_fields.json: the fields of the upstream configuration classes, without their code.

Recipes are checked against this file, so that a misspelt field is found in milliseconds and without importing torch.
Run it again whenever trl, transformers or peft move: `.venv/bin/python scripts/snapshot_upstream.py`; `--check` only
says whether the file is what the installed versions give.

Each class is `{"base": name, "fields": {field: {"type", "default", "choices", "help"}}}`; a class holds only what
differs from its base. Types are a small grammar: null, bool, int, float, str, dict, any, list[T], the name of another
class in the file, and alternatives joined by `|`. A default of null and absent choices are left out.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import importlib.metadata
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "src" / "alignkit" / "recipe" / "upstream_fields.json"
TRL_CONFIGS = ("SFTConfig", "DPOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig", "KTOConfig")
HELP_LIMIT = 160
PRIMITIVES = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null", Any: "any"}
ORDER = ("bool", "int", "float", "str", "list", "dict", "any")


def alternatives(annotation: Any, nested: dict[str, type]) -> tuple[list[str], list[Any]]:
    """The types and the choices that an annotation allows; dataclasses met on the way are added to `nested`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PRIMITIVES:
        return [PRIMITIVES[annotation]], []
    if origin in (typing.Union, types.UnionType):
        found, choices = [], []
        for arg in args:
            more, chosen = alternatives(arg, nested)
            found += more
            choices += chosen
        return found, choices
    if origin is typing.Literal:
        return [PRIMITIVES[type(value)] for value in args], [value for value in args if isinstance(value, str)]
    if origin in (list, tuple, set) or annotation in (list, tuple, set):
        items = [arg for arg in args if arg is not Ellipsis]
        return [f"list[{joined(alternatives(items[0], nested)[0])}]" if items else "list[any]"], []
    if origin is dict or annotation is dict:
        return ["dict"], []
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ["str"], [member.value for member in annotation]
    if dataclasses.is_dataclass(annotation) and annotation.__module__.startswith("peft."):
        nested[annotation.__name__] = annotation
        return [annotation.__name__], []
    return ["dict"], []


def joined(found: list[str]) -> str:
    """`int|str|null`: each type once, null last."""
    rank = {name: place for place, name in enumerate(ORDER)}
    unique = dict.fromkeys(found)
    return "|".join(sorted(unique, key=lambda name: (name == "null", rank.get(name.split("[")[0], 5))))


def first_sentence(text: str | tuple[str, ...]) -> str:
    """The first sentence of a help text (some of peft's are tuples) on one line, at most HELP_LIMIT characters."""
    text = text if isinstance(text, str) else "".join(text)
    text = re.sub(r"\[(`[^`\]]*`|[^\]]*)\]\([^)]*\)", r"\1", " ".join(text.replace("%%", "%").split()))
    text = re.sub(r"\[`~?(?:[\w.]*\.)?([\w]+)`\]", r"`\1`", text)
    found = re.match(r"(.+?[.:])(?=\s+[A-Z`\-(>]|$)", text)
    text = (found.group(1) if found else text).rstrip(":").strip()
    return text if len(text) <= HELP_LIMIT else text[: HELP_LIMIT - 1].rsplit(" ", 1)[0] + "…"


def documented(cls: type) -> dict[str, tuple[str, str]]:
    """field -> (what stands in its parentheses, its help), read from the docstrings of a class and its bases."""
    found: dict[str, tuple[str, str]] = {}
    for owner in cls.__mro__:
        text = textwrap.dedent("        \n" + (owner.__dict__.get("__doc__") or ""))
        entry = re.compile(r"^( *)(\w+) ?\((.*?)\): *(.*(?:\n(?:\1 +.*| *$))*)", re.MULTILINE)
        for match in entry.finditer(text):
            found.setdefault(match.group(2), (match.group(3), match.group(4).split("\n\n")[0]))
    return found


def plain(value: Any) -> Any:
    """A default as JSON can hold it."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value


def entry(kind: str, default: Any, choices: list[Any], help_text: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind}
    if plain(default) is not None:
        made["default"] = plain(default)
    if choices:
        made["choices"] = list(dict.fromkeys(choices))
    made["help"] = first_sentence(help_text)
    return made


def dataclass_fields(cls: type, nested: dict[str, type]) -> dict[str, dict[str, Any]]:
    """The fields of a dataclass that its constructor takes."""
    hints, docs = typing.get_type_hints(cls), documented(cls)
    made = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        found, choices = alternatives(hints[field.name], nested)
        default = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is None and "null" not in found:
            found.append("null")
        help_text = field.metadata.get("help") or docs.get(field.name, ("", ""))[1]
        choices = choices or list(field.metadata.get("choices") or [])
        made[field.name] = entry(joined(found), default, choices, help_text)
    return made


def from_words(words: str) -> list[str]:
    """Types out of a docstring's "`int` or `list[int]`, *optional*"."""
    word = (
        r"(?:list|tuple|dict)[\[(][^`]*?[\])]+(?=[`,\]]|$|\s)|\b(?:int|float|bool|str|dict|list|tuple|torch\.dtype)\b"
    )
    found = []
    for part in re.findall(word, words.split("*optional*")[0].split("defaults")[0], re.IGNORECASE):
        kind = part.lower().replace(" ", "")
        if re.fullmatch(r"list(\[(int|str|float|list\[int\])\])", kind):
            found.append(kind)
        elif kind.startswith(("list", "tuple")):
            found.append("list[any]")
        else:
            found.append("dict" if kind.startswith("dict") else kind.replace("torch.dtype", "str"))
    return found or ["any"]


def signature_fields(cls: type, defaults: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a plain class: names and defaults as given, types from the default or else the docstring."""
    docs, made = documented(cls), {}
    for name, default in defaults.items():
        if name not in docs:  # what upstream does not document it keeps for old files only
            continue
        words, help_text = docs[name]
        found = [PRIMITIVES[type(default)]] if default is not None else [*from_words(words), "null"]
        made[name] = entry("any" if "any" in found else joined(found), default, [], help_text)
    return made


def popped_keywords(cls: type) -> dict[str, Any]:
    """`kwargs.pop("name", default)` in a constructor: the names it takes, with their defaults."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Attribute) and call.func.attr == "pop" and len(call.args) == 2:
                found[ast.literal_eval(call.args[0])] = ast.literal_eval(call.args[1])
    return {name: default for name, default in found.items() if not name.startswith("_")}


def adapter_classes() -> dict[str, type]:
    """peft_type -> config class, of the adapters that change modules of the model (prompt learning does not)."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {}
    for kind, cls in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda pair: pair[0].value):
        if {"target_modules", "token_indices"} & {field.name for field in dataclasses.fields(cls)}:
            kinds[kind.value] = cls
    # These need several tasks, trained adapters, or adapter layers of one architecture.
    return {kind: cls for kind, cls in kinds.items() if kind not in {"POLY", "XLORA", "ADAPTION_PROMPT"}}


def without_inherited(fields: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    return {name: spec for name, spec in fields.items() if base.get(name) != spec}


def snapshot() -> dict[str, Any]:
    """Everything the file holds, from the installed libraries."""
    import trl
    from peft.config import PeftConfig
    from transformers import BitsAndBytesConfig, GenerationConfig, TrainingArguments
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    from alignkit.trainers.ppo import PPOConfig

    nested: dict[str, type] = {}
    training = dataclass_fields(TrainingArguments, nested)
    training["report_to"]["choices"] = ["none", "all", *sorted(INTEGRATION_TO_CALLBACK)]
    classes: dict[str, Any] = {"TrainingArguments": {"fields": training}}
    for name in TRL_CONFIGS:
        fields = dataclass_fields(getattr(trl, name), nested)
        fields["report_to"]["choices"] = training["report_to"]["choices"]
        classes[name] = {"base": "TrainingArguments", "fields": without_inherited(fields, training)}
        if name == "GRPOConfig":  # whose heir is alignkit's own
            heir = dataclass_fields(PPOConfig, nested)
            heir["report_to"]["choices"] = training["report_to"]["choices"]
            classes["PPOConfig"] = {"base": name, "fields": without_inherited(heir, fields)}
    signature = inspect.signature(BitsAndBytesConfig.__init__).parameters.values()
    named = {one.name: one.default for one in signature if one.default is not one.empty}
    classes["BitsAndBytesConfig"] = {"fields": signature_fields(BitsAndBytesConfig, named)}
    classes["GenerationConfig"] = {"fields": signature_fields(GenerationConfig, popped_keywords(GenerationConfig))}
    base = dataclass_fields(PeftConfig, nested)
    classes["PeftConfig"] = {"fields": base}
    kinds = adapter_classes()
    for cls in kinds.values():
        classes[cls.__name__] = {"base": "PeftConfig", "fields": without_inherited(dataclass_fields(cls, nested), base)}
    for name, cls in sorted(nested.items()):
        classes.setdefault(name, {"fields": dataclass_fields(cls, {})})
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "trl", "peft")}
    return {"versions": versions, "peft_types": {kind: cls.__name__ for kind, cls in kinds.items()}, "classes": classes}


def as_text(made: dict[str, Any]) -> str:
    """JSON with one field a line, so that a change upstream reads well as a diff."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = []
    for name, cls in made["classes"].items():
        head = f' "base": {line(cls["base"])},' if "base" in cls else ""
        rows = ",\n".join(f"   {line(field)}: {line(spec)}" for field, spec in cls["fields"].items())
        parts.append(f'  {line(name)}: {{{head} "fields": {{\n{rows}\n  }}}}')
    return (
        f'{{\n "versions": {line(made["versions"])},\n "peft_types": {line(made["peft_types"])},\n "classes": {{\n'
        + ",\n".join(parts)
        + "\n }\n}\n"
    )


def main() -> int:
    text = as_text(snapshot())
    if "--check" in sys.argv:
        same = TARGET.read_text(encoding="utf-8") == text
        print("the snapshot is current" if same else "the snapshot differs: run scripts/snapshot_upstream.py")
        return 0 if same else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET} ({len(text) // 1024} KiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
