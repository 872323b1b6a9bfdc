"""Where training starts: a full model, or an adapter and the model it stands on; in folders or on the Hub."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import Problem, UserError
from alignkit.model_folders import describe_folder, start_of
from alignkit.models.upstream import Complain, raised_upstream

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from alignkit.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A full model (folder or Hub id), and the adapter on top of it, if any."""

    base: str
    base_revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    tokenizer: str = ""
    """The folder or Hub id that holds the tokenizer: the adapter's own, else its base's."""
    tokenizer_revision: str | None = None
    config: PreTrainedConfig | None = None
    """Where it is given, the model is made from it and no weights are read: for a plan."""

    def __str__(self) -> str:
        return self.adapter or self.base


_planned: ContextVar[Callable[[str, str | None, Complain], Start] | None] = ContextVar("planned", default=None)


@contextmanager
def resolved_by(resolve: Callable[[str, str | None, Complain], Start]) -> Iterator[None]:
    """Inside, `resolve_start` asks `resolve`: a plan's models have configs in place of weights."""
    token = _planned.set(resolve)
    try:
        yield
    finally:
        _planned.reset(token)


def start_field(recipe: Recipe, start: str | Path | Start | None) -> str:
    """The recipe's field that says where training starts."""
    if recipe.model.from_recipe is not None and start is not None:
        return "model.from_recipe"
    return "model.model_name_or_path"


def recipe_start(recipe: Recipe, start: str | Path | Start | None = None) -> Start | None:
    """The recipe's start; None for `init: random`. `start` is the result of `model.from_recipe`, or found before."""
    if isinstance(start, Start):
        return start
    source = start_of(recipe, start)
    if source is None:
        return None
    field = start_field(recipe, start)

    def complain(_: str | None, message: str, hint: str | None = None) -> Problem:
        return recipe.problem(field, message, hint)

    return resolve_start(source, recipe.model.revision if start is None else None, complain)


def resolve_start(source: str, revision: str | None, complain: Complain) -> Start:
    """Read what `source`, a folder or a Hub id, stands for. On the Hub that is one small request."""
    planned = _planned.get()
    if planned is not None:
        return planned(source, revision, complain)
    if Path(source).is_dir():
        folder = describe_folder(source)
        if folder.problems:
            raise UserError([complain(None, message, None) for message in folder.problems])
        if folder.kind == "model":
            return Start(str(folder.path), tokenizer=str(folder.path))
        assert folder.base is not None, "describe_folder reports an adapter without a base"
        base_revision = folder.config.get("revision")
        tokenizer, tokenizer_revision = (str(folder.path), None) if folder.tokenizer else (folder.base, base_revision)
        return Start(folder.base, base_revision, str(folder.path), None, tokenizer, tokenizer_revision)
    if source.startswith((".", "~")) or Path(source).is_absolute():
        raise UserError(complain(None, f"there is no folder {source}", None))
    with raised_upstream(complain, source):
        config_file = _hub_adapter_config(source, revision)
    if config_file is None:
        return Start(source, revision, tokenizer=source, tokenizer_revision=revision)
    config = json.loads(Path(config_file).read_text(encoding="utf-8"))
    base, base_revision = config["base_model_name_or_path"], config.get("revision")
    own = _hub_file(source, "tokenizer_config.json", revision) is not None
    tokenizer, tokenizer_revision = (source, revision) if own else (base, base_revision)
    return Start(base, base_revision, source, revision, tokenizer, tokenizer_revision)


@functools.cache
def _hub_adapter_config(name: str, revision: str | None) -> str | None:
    return _hub_file(name, "adapter_config.json", revision)


def _hub_file(name: str, file: str, revision: str | None) -> str | None:
    """The cached path of a file of a Hub model, or None where the model has no such file."""
    from transformers.utils import cached_file

    return cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
