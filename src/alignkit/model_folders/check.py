"""What is wrong with a recipe's `model:`, as far as local files and names can tell."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.errors import Problem
from alignkit.model_folders.folders import ModelFolder, describe_folder, find_template, has_tokenizer, read_config
from alignkit.model_folders.names import (
    PACKAGED,
    TOKENIZERS,
    cached_snapshot,
    hub_offline,
    is_hub_id,
    model_place,
    result_folder,
)

if TYPE_CHECKING:
    from alignkit.recipe import Recipe

Finding = tuple[str, str, str | None]
"""Field of the recipe, message, hint."""


def check_model(recipe: Recipe) -> list[Problem]:
    """Everything about `model:` that local files and names can tell, as one-line problems; torch is not needed."""
    if getattr(recipe, "endpoint", None) is not None:  # a name at that endpoint, nothing that is loaded here
        return []
    return [recipe.problem(name, message, hint) for name, message, hint in _model_findings(recipe)]


def _model_findings(recipe: Recipe) -> Iterator[Finding]:
    model, base_dir = recipe.model, recipe.base_dir
    own_tokenizer = False
    if model.model_name_or_path is not None:
        folder = None
        place = model_place(model.model_name_or_path, base_dir)
        if place is None:
            yield from _hub_findings("model.model_name_or_path", model.model_name_or_path, model.revision, base_dir)
            own_tokenizer = True
        elif not place.is_dir():
            yield _missing_folder("model.model_name_or_path", place)
            own_tokenizer = True
        else:
            folder = describe_folder(place)
            yield from _folder_findings(recipe, folder)
            own_tokenizer = folder.tokenizer or _base_has_tokenizer(folder)
        yield from _adapter_findings(recipe, folder)
    elif model.from_recipe is not None:
        own_tokenizer = True
        if not (base_dir / model.from_recipe).is_file():
            yield (
                "model.from_recipe",
                f"there is no file {base_dir / model.from_recipe}",
                _close_name(base_dir / model.from_recipe),
            )
    else:
        yield from _config_findings(model.config, base_dir)
        own_tokenizer = isinstance(model.config, str) and has_tokenizer(base_dir / model.config)
    yield from _tokenizer_findings(recipe, own_tokenizer)
    yield from _other_findings(recipe)


def _other_findings(recipe: Recipe) -> Iterator[Finding]:
    """Of the models that a recipe names beside `model:`: a reference, a critic's start, reward models."""
    if (reference := getattr(recipe, "reference", None)) is not None:
        yield from _named_findings(recipe, "reference", reference)
    if (init := getattr(getattr(recipe, "critic", None), "init", None)) not in (None, "policy", "reward"):
        place = model_place(str(init), recipe.base_dir)
        if place is None or not (place / "critic.json").is_file():  # a saved critic is no model's folder
            yield from _named_findings(recipe, "critic.init", str(init))
    for index, reward in enumerate(getattr(recipe, "rewards", ())):
        if reward.model is not None:
            yield from _reward_findings(recipe, f"rewards.{index}.model", reward.model, reward.options.get("revision"))


def _named_findings(recipe: Recipe, field: str, name: str, revision: str | None = None) -> Iterator[Finding]:
    place = model_place(name, recipe.base_dir)
    if place is None:
        yield from _hub_findings(field, name, revision, recipe.base_dir)
    elif not place.is_dir():
        yield _missing_folder(field, place)
    else:
        yield from _folder_findings(recipe, describe_folder(place), field)


def _reward_findings(recipe: Recipe, field: str, name: str, revision: str | None) -> Iterator[Finding]:
    found = list(_named_findings(recipe, field, name, revision))
    yield from found
    place = model_place(name, recipe.base_dir)
    folder = None if found or place is None else describe_folder(place)
    if folder is None:
        return
    tops = [folder.config.get("task_type"), *(folder.config.get("architectures") or ())]
    if any(str(top).endswith(("CAUSAL_LM", "ForCausalLM", "LMHeadModel")) for top in tops):
        hint = "`alignkit reward` trains a reward model"
        yield field, f"{folder.path} is no reward model: it has no head that gives one number", hint


def _folder_findings(recipe: Recipe, folder: ModelFolder, name: str = "model.model_name_or_path") -> Iterator[Finding]:
    for message in folder.problems:
        hint = None
        if folder.run is None and "has no config.json" in message:
            hint = "a model folder holds config.json and weights, an adapter folder adapter_config.json and weights"
        yield name, message, hint
    if folder.weights == "pickle" and recipe.model.use_safetensors:
        hint = "convert them, or set model.use_safetensors: false if you trust where they come from"
        yield name, f"{folder.path} holds only pickled weights, which can run code when loaded", hint
    if folder.base is None:
        return
    base = Path(folder.base)
    if base.is_dir():
        for message in describe_folder(base).problems:
            yield name, f"the base of the adapter {folder.path}: {message}", None
    elif base.is_absolute() or folder.base.startswith("."):
        hint = "mend base_model_name_or_path in its adapter_config.json"
        yield name, f"the adapter {folder.path} stands on {folder.base}, which does not exist", hint
    else:
        yield from _hub_findings(name, folder.base, folder.config.get("revision"), recipe.base_dir)


def _adapter_findings(recipe: Recipe, folder: ModelFolder | None) -> Iterator[Finding]:
    on_top_of = getattr(recipe.adapter, "on_top_of", None)
    starts_from_adapter = folder is not None and folder.kind == "adapter"
    if starts_from_adapter and recipe.adapter is not None and on_top_of is None:
        hint = "say adapter.on_top_of: merge or stack, or leave out `adapter:` to go on with the old one"
        yield "adapter", "training starts from an adapter, and the recipe asks for another one", hint
    if folder is not None and not starts_from_adapter and on_top_of is not None:
        yield "adapter.on_top_of", f"there is no adapter to put it on: {folder.path} is a full model", "leave it out"
    trains = getattr(recipe, "training", None) is not None
    if folder and not starts_from_adapter and trains and recipe.quantization is not None and recipe.adapter is None:
        yield "quantization", "quantised weights cannot be trained themselves", "add an `adapter:` section"


def _base_has_tokenizer(folder: ModelFolder) -> bool:
    if folder.base is None:
        return False
    base = Path(folder.base)
    return has_tokenizer(base) if base.is_dir() else not base.is_absolute()


def _tokenizer_findings(recipe: Recipe, own_tokenizer: bool) -> Iterator[Finding]:
    model, base_dir = recipe.model, recipe.base_dir
    name = model.tokenizer_name_or_path
    if name is None:
        if not own_tokenizer:
            where = model.model_name_or_path or "a model from a config"
            hint = f'add its files, or set model.tokenizer_name_or_path (a folder, a Hub id or "{PACKAGED}characters")'
            yield "model.tokenizer_name_or_path", f"{where} has no tokenizer", hint
    elif name.startswith(PACKAGED):
        known = sorted(path.name for path in TOKENIZERS.iterdir() if path.is_dir())
        if name.removeprefix(PACKAGED) not in known:
            close = difflib.get_close_matches(name.removeprefix(PACKAGED), known, n=1, cutoff=0.4)
            hint = (
                f"did you mean {PACKAGED}{close[0]}?" if close else "known: " + ", ".join(PACKAGED + k for k in known)
            )
            yield "model.tokenizer_name_or_path", f"alignkit has no tokenizer {name}", hint
    elif (place := model_place(name, base_dir)) is None:
        yield from _hub_findings("model.tokenizer_name_or_path", name, None, base_dir)
    elif not place.is_dir():
        yield _missing_folder("model.tokenizer_name_or_path", place)
    elif not has_tokenizer(result_folder(place)):
        yield "model.tokenizer_name_or_path", f"{place} has no tokenizer files (tokenizer.json, vocab.txt, …)", None
    if model.chat_template_path is not None:
        yield from _template_findings(model.chat_template_path, base_dir)


def _template_findings(name: str, base_dir: Path) -> Iterator[Finding]:
    path = base_dir / Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")) or path.suffix in (".jinja", ".j2"):
            yield "model.chat_template_path", f"there is no file {path}", _close_name(path)
        else:
            yield from _hub_findings("model.chat_template_path", name, None, base_dir)
    elif find_template(path) is None:
        yield "model.chat_template_path", f"{path} holds no chat template", "give a .jinja file or a tokenizer's folder"


def _config_findings(config: dict[str, Any] | str | None, base_dir: Path) -> Iterator[Finding]:
    if isinstance(config, str):
        path = base_dir / config
        if not path.exists():
            yield "model.config", f"there is no {path}", _close_name(path)
            return
        folder, name = (path, "config.json") if path.is_dir() else (path.parent, path.name)
        config, broken = read_config(folder, name)
        if broken:
            yield "model.config", broken, None
            return
    if config is not None and "model_type" not in config:
        yield "model.config", "model_type is missing", "for instance `model_type: llama`"


def _hub_findings(field_name: str, name: str, revision: str | None, base_dir: Path) -> Iterator[Finding]:
    if not is_hub_id(name):
        path = base_dir / name
        if (Path.cwd() / name).is_dir():
            there = os.path.relpath(Path.cwd() / name, base_dir)
            hint: str | None = f"paths are relative to the recipe's file: write {there}"
        else:
            hint = _close_name(path)
        yield field_name, f"there is no folder {path}, and {name!r} is no Hub id (ORGANISATION/NAME)", hint
    elif hub_offline() and cached_snapshot(name, revision) is None:
        at = f" at revision {revision}" if revision else ""
        message = f"{name}{at} is neither a folder beside the recipe nor in the local Hub cache, and the Hub is offline"
        yield field_name, message, _close_name(base_dir / name) or "unset HF_HUB_OFFLINE to download it"


def _missing_folder(field_name: str, path: Path) -> Finding:
    return (
        field_name,
        f"{path} is a file, not a folder" if path.exists() else f"there is no folder {path}",
        _close_name(path),
    )


def _close_name(path: Path) -> str | None:
    """`did you mean …?` from the names beside `path`, going up to the first parent that exists."""
    tail: list[str] = []
    while not path.parent.is_dir() and path.parent != path:
        tail.insert(0, path.name)
        path = path.parent
    names = [entry.name for entry in path.parent.iterdir()]
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(path.name.casefold(), folded, n=1, cutoff=0.7)
    if not close:
        return None
    guess = path.parent.joinpath(folded[close[0]], *tail)
    return f"did you mean {guess}?" if guess.exists() else f"did you mean {path.parent / folded[close[0]]}?"
