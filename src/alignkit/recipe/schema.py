"""JSON Schema of recipes, from which editors complete and check: one object, whose fields depend on `method`.

Upstream's fields are written once, under the class that declares them; the others refer to them there.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from alignkit.recipe import upstream
from alignkit.recipe.base import Section
from alignkit.recipe.defaults import differing
from alignkit.recipe.owned import refused
from alignkit.recipe.recipe import Recipe
from alignkit.recipe.sections import AdapterSection, ModelSection, Source
from alignkit.recipe.upstream import UpstreamField

Schema = dict[str, Any]
TYPES = {"null": "null", "bool": "boolean", "int": "integer", "float": "number", "str": "string", "dict": "object"}
LINE = 160
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def recipe_schema(classes: Mapping[str, type[Recipe]]) -> Schema:
    """The schema of the recipes of all methods.

    Args:
        classes: method -> its recipe class.
    """
    schemas = _Schemas()
    branches = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": schemas.recipe(cls),
        }
        for name, cls in classes.items()
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "alignkit recipe",
        "type": "object",
        "properties": {"method": {"enum": list(classes), "description": "The training method: the command to run."}},
        # What a recipe extends may hold the rest.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": ["method", "output_dir", "model"]},
        "allOf": branches,
        "$defs": schemas.defs,
    }


class _Schemas:
    """Builds the parts and keeps those that are referred to."""

    def __init__(self) -> None:
        self.defs: Schema = {}

    def recipe(self, cls: type[Recipe]) -> Schema:
        """One method's recipe."""
        own = self.section(cls)
        properties = own["properties"]
        properties |= {
            "extends": {"type": "string", "description": "Another recipe, which this one changes."},
            "quantization": _or_null(self.upstream("BitsAndBytesConfig"), _docs_of(cls)["quantization"]),
            "adapter": _or_null(self.adapter(), _docs_of(cls)["adapter"]),
            "training": self.training(cls),
        }
        properties["model"] = {"$ref": self.define("ModelSection", lambda: self.section(ModelSection))}
        self.define("Source", lambda: _described(Source.model_json_schema(), Source))
        self.defs["EvaluationTask"]["properties"]["generation"] = self.upstream("GenerationConfig")
        return {**own, "properties": properties}

    def define(self, name: str, make: Any) -> str:
        """A reference to the definition `name`, made if it is not there."""
        if name not in self.defs:
            self.defs[name] = {}  # it may refer to itself
            self.defs[name] = make()
        return f"#/$defs/{name}"

    def section(self, cls: type[Section]) -> Schema:
        """A section of alignkit's own, as pydantic sees it, with the docstrings of its fields."""
        found = cls.model_json_schema(ref_template="#/$defs/{model}")
        for name, definition in found.pop("$defs", {}).items():
            if name not in self.defs:
                self.defs[name] = {}
                self.defs[name] = _described(definition, _all_sections().get(name))
        found = _described(found, cls)
        found.pop("required", None)
        return found

    def training(self, cls: type[Recipe]) -> Schema:
        """`training` of one method: upstream's fields and alignkit's own."""
        name = f"{cls.training_config}.{cls.__name__}"
        if name not in self.defs:
            made = self.class_schema(
                cls.training_config, set(cls.training_section.model_fields) | set(cls.training_section.refused_fields)
            )
            own = _described(cls.training_section.model_json_schema(), cls.training_section)
            made["properties"] = {**own["properties"], **made["properties"]}
            self.defs[name] = made
        return {"$ref": f"#/$defs/{name}"}

    def upstream(self, name: str) -> Schema:
        return {"$ref": self.define(name, lambda: self.class_schema(name, set()))}

    def adapter(self) -> Schema:
        """`adapter`: its fields depend on `peft_type`."""
        own = _described(AdapterSection.model_json_schema(), AdapterSection)["properties"]
        kinds = upstream.peft_types()
        own["peft_type"] |= {"enum": sorted(kinds), "default": "LORA"}

        def make() -> Schema:
            branches = []
            for kind, name in kinds.items():
                condition: Schema = {"properties": {"peft_type": {"const": kind}}}
                if kind != "LORA":  # which is meant where nothing is said
                    condition["required"] = ["peft_type"]
                fields = self.class_schema(name, set(own))
                fields["properties"] = {"peft_type": True, "on_top_of": True, **fields["properties"]}
                branches.append({"if": condition, "then": fields})
            return {"type": "object", "properties": own, "allOf": branches}

        return {"$ref": self.define("adapter", make)}

    def class_schema(self, name: str, without: set[str]) -> Schema:
        """The fields of an upstream class; those that it inherits unchanged refer to its base."""
        base = upstream.snapshot()["classes"][name].get("base")
        inherited = upstream.fields(base) if base == "TrainingArguments" else {}
        if inherited:
            self.define(base, lambda: self.class_schema(base, set()))
        defaults = {one.field: one for one in differing(name)}
        base_defaults = {one.field: one for one in differing(base)} if inherited else {}
        properties: Schema = {}
        for key, field in upstream.fields(name).items():
            if key in refused(name) or key in without:
                continue
            same = field == inherited.get(key) and defaults.get(key) == base_defaults.get(key)
            if same:
                properties[key] = {"$ref": f"#/$defs/{base}/properties/{key}"}
            else:
                properties[key] = self.field(field)
                if (ours := defaults.get(key)) is not None:
                    properties[key].pop("default", None)
                    properties[key]["description"] += f" (alignkit's default: {ours.shown.replace('`', '')})"
        return {"type": "object", "additionalProperties": False, "properties": properties}

    def field(self, field: UpstreamField) -> Schema:
        alternatives = [self.kind(field, kind) for kind in field.kinds]
        plain = all(set(one) == {"type"} for one in alternatives)
        if len(alternatives) == 1:
            made = dict(alternatives[0])
        elif plain:
            made = {"type": [one["type"] for one in alternatives]}
        else:
            made = {"anyOf": alternatives}
        if field.default is not None:
            made["default"] = field.default
        return {**made, "description": field.help}

    def kind(self, field: UpstreamField, kind: str) -> Schema:
        """The schema of one alternative of a field's type."""
        if kind == "any":
            return {}
        if kind.startswith("list["):
            return {"type": "array", "items": self.kind(field, kind[5:-1])}
        if kind in upstream.snapshot()["classes"]:
            return self.upstream(kind)
        made: Schema = {"type": TYPES[kind]}
        if kind in ("int", "float"):
            limits = {word: getattr(field.bound, name) for name, word in LIMITS.items()}
            made |= {word: limit for word, limit in limits.items() if limit is not None}
        if kind == "str" and field.choices:
            listed: Schema = {"enum": list(field.choices)}
            pattern = field.bound.pattern
            return {"anyOf": [listed, {"type": "string", "pattern": pattern}]} if pattern else listed
        return made


def _or_null(schema: Schema, description: str) -> Schema:
    return {"anyOf": [schema, {"type": "null"}], "description": description}


def _described(schema: Schema, cls: type[Section] | None) -> Schema:
    """`schema` with the docstring of each field, and without pydantic's titles."""
    docs = {} if cls is None else _docs_of(cls)
    schema.pop("title", None)
    for name, one in schema.get("properties", {}).items():
        one.pop("title", None)
        if name in docs:
            one["description"] = docs[name]
    for name in ("train", "eval", "data"):  # a single source, or its path, may stand for a list
        one = schema.get("properties", {}).get(name)
        if one is not None and "DataSection" not in str(one) and "Source" in str(one):
            source = {"$ref": "#/$defs/Source"}
            text = one.get("description", "")
            items = {"type": "array", "minItems": 1, "items": {"anyOf": [source, {"type": "string"}]}}
            kinds = [items, source, {"type": "string"}]
            schema["properties"][name] = {"anyOf": [*kinds, {"type": "null"}], "description": text}
    return schema


@functools.cache
def _docs_of(cls: type[Section]) -> dict[str, str]:
    """field -> the docstring under it, in the class and its bases."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not (isinstance(owner, type) and issubclass(owner, Section)):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value) if isinstance(below.value, ast.Constant) else ""
                found[field.target.id] = " ".join(str(text).split())
    return found


def _all_sections(cls: type[Section] = Section) -> dict[str, type[Section]]:
    return {one.__name__: one for sub in cls.__subclasses__() for one in (sub, *_all_sections(sub).values())}


def schema_text(classes: Mapping[str, type[Recipe]]) -> str:
    """The schema as schema/recipe.json holds it: what fits on a line stands on one."""
    return _lines(recipe_schema(classes), "") + "\n"


def _lines(value: Any, indent: str) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or len(flat) + len(indent) <= LINE:
        return flat
    deeper = indent + " "
    if isinstance(value, dict):
        inner = [f"{deeper}{json.dumps(key)}: {_lines(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _lines(item, deeper) for item in value) + f"\n{indent}]"
