"""The built-in rewards by name: what each takes from a sample, and whether it could hang."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alignkit.metrics.references import references_of
from alignkit.rewards.call import Failure


@dataclass(frozen=True)
class BuiltIn:
    """`where` is module:function. `takes` names what it is given of a sample after the completion's text:
    `references`, `tokens` (their number), or a column of the data. `slow`: it may hang, and runs in a process of its
    own that can be killed."""

    where: str
    takes: tuple[str, ...] = ()
    slow: bool = False

    @property
    def function(self) -> Callable[..., float | None]:
        module, name = self.where.split(":")
        found: Callable[..., float | None] = getattr(
            importlib.import_module(f"alignkit.rewards.functions.{module}"), name
        )
        return found

    def options(self) -> dict[str, inspect.Parameter]:
        """Its keyword arguments."""
        parameters = inspect.signature(self.function).parameters
        found = {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
        if "target" in parameters:
            found["target"] = parameters["target"]
        return found


BUILT_IN = {
    "exact_match": BuiltIn("matching:exact_match", ("references",)),
    "math_answer": BuiltIn("matching:math_answer", ("references",), slow=True),
    "numeric": BuiltIn("matching:numeric", ("references",)),
    "regex": BuiltIn("matching:regex", slow=True),
    "format": BuiltIn("shape:format"),
    "length": BuiltIn("shape:length", ("tokens",)),
    "language": BuiltIn("shape:language"),
    "repetition": BuiltIn("shape:repetition"),
    "json_schema": BuiltIn("matching:json_schema", slow=True),
    "arithmetic_24": BuiltIn("arithmetic:arithmetic_24", ("numbers",)),
    "code_tests": BuiltIn("code:code_tests", ("tests",), slow=True),
}


@dataclass(frozen=True)
class Bound:
    """A built-in reward with the recipe's options."""

    name: str
    options: Mapping[str, Any]
    column: str | None

    def __call__(self, text: str, tokens: int, sample: Mapping[str, Any]) -> float | Failure | None:
        """The reward of one sample; a Failure where it lacks what the function compares with, or where that raises."""
        built_in = BUILT_IN[self.name]
        given: list[Any] = []
        for wanted in built_in.takes:
            if wanted == "tokens":
                given.append(tokens)
                continue
            value = references_of(sample, self.column) if wanted == "references" else sample.get(self.column or wanted)
            if value is None or value == []:
                return Failure(f"no {self.column or wanted} in the data's columns ({', '.join(sample) or 'none'})")
            given.append(value)
        options = dict(self.options)
        if "numbers" in built_in.takes and "target" not in options and sample.get("target") is not None:
            options["target"] = sample["target"]
        try:
            return built_in.function(text, *given, **options)
        except Exception as error:
            return Failure(f"{type(error).__name__}: {error}")
