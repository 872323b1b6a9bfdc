"""What is merged into what, and where to: from files alone, so that what is wrong is said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit import methods
from alignkit.errors import Problem, UserError
from alignkit.model_folders import (
    BASE,
    ModelFolder,
    describe_folder,
    is_hub_id,
    result_folder,
    weights_fingerprint,
)
from alignkit.runs import Run

if TYPE_CHECKING:
    from alignkit.recipe import Head, Recipe

HEADS: dict[str, Head] = {"SEQ_CLS": "sequence_classification", "TOKEN_CLS": "token_classification"}
PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "CARTRIDGE")
"""Kinds of adapter that add tokens or states instead of changing weights."""


@dataclass(frozen=True)
class Plan:
    """One merge.

    Attributes:
        base: where the base lies, a folder or a Hub id; `revision` for the latter.
        dtype: of the merged weights, torch's word; None: the base's own.
        quantization: BitsAndBytesConfig's fields, where the adapter was trained on quantised weights.
        run, recipe: where the adapter is a run's.
        notes: what could not be checked.
    """

    adapter: ModelFolder
    base: str
    revision: str | None
    out: Path
    dtype: str | None
    max_shard_size: str
    head: Head
    quantization: dict[str, Any] | None = None
    run: Path | None = None
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()


def make_plan(
    target: str,
    out: Path | None = None,
    base: str | None = None,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
) -> Plan:
    """Look at the run or adapter folder `target` and at its base.

    Raises:
        UserError: no adapter there, a broken one, one that cannot be merged, another base than the one that it was
            trained on, an output folder in use.
    """
    adapter = _adapter(target)
    run = _run_of(adapter)
    recipe = None if run is None else methods.load_for_evaluation(run.recipe_path)
    manifest = {} if run is None else run.manifest
    name, revision, notes = _base(adapter, base, manifest.get("fingerprints", {}).get("base"))
    quantised = recipe is not None and recipe.quantization is not None
    return Plan(
        adapter=adapter,
        base=name,
        revision=revision,
        out=_out(adapter, run, out, overwrite),
        dtype=dtype or manifest.get("model", {}).get("dtype"),
        max_shard_size=max_shard_size,
        head=HEADS.get(str(adapter.config.get("task_type")), "causal_lm"),
        quantization=recipe.quantization.arguments() if quantised and recipe and recipe.quantization else None,
        run=None if run is None else run.path,
        recipe=recipe,
        notes=notes,
    )


def _adapter(target: str) -> ModelFolder:
    path = Path(target)
    if not path.is_dir():
        hint = "download it first: hf download NAME --local-dir FOLDER" if is_hub_id(target) else None
        raise UserError(Problem("there is no such run or adapter folder", target, hint=hint))
    folder = describe_folder(path)
    if folder.problems:
        raise UserError([Problem(message) for message in folder.problems])
    if folder.kind == "model":
        raise UserError(Problem("is a full model: there is no adapter to merge", folder.path, hint="use it as it is"))
    kind = str(folder.config.get("peft_type"))
    if kind in PROMPTS:
        message = f"a {kind} adapter changes no weights: it cannot be merged"
        raise UserError(Problem(message, folder.path / "adapter_config.json", field="peft_type"))
    return folder


def _run_of(adapter: ModelFolder) -> Run | None:
    """The run that the adapter is the result of: its `model/` folder may have been named instead of the run."""
    place = adapter.run or (adapter.path.parent if adapter.path.name == "model" else None)
    return Run(place) if place is not None and (place / "recipe.yaml").is_file() else None


def _base(adapter: ModelFolder, given: str | None, trained_on: str | None) -> tuple[str, str | None, tuple[str, ...]]:
    """(folder or Hub id, revision, notes) of the base, checked against the one that the adapter was trained on."""
    assert adapter.base is not None, "an adapter without a base is a problem of its folder"
    named, revision = adapter.base, adapter.config.get("revision")
    config = adapter.path / "adapter_config.json"
    if given is None:
        if Path(named).is_absolute() and not Path(named).is_dir():
            message = f"the base {named} is gone"
            raise UserError(Problem(message, config, field="base_model_name_or_path", hint="say where: --base FOLDER"))
        if Path(named) == adapter.path / BASE:  # it was written with the adapter
            return named, None, ()
        name = named
    else:
        name, revision = str(result_folder(Path(given))) if Path(given).is_dir() else given, None
        trained_on = trained_on or weights_fingerprint(named, adapter.config.get("revision"))
    found = weights_fingerprint(name, revision)
    if trained_on is not None and found is not None:
        if found != trained_on:
            message = f"{name} is not the base that this adapter was trained on ({named}): its weights differ"
            hint = "name that one with --base" if given is None else "merge into that one"
            raise UserError(Problem(message, adapter.path, field="--base", hint=hint))
        return name, revision, ()
    if given is not None and Path(given).name != Path(named).name:
        message = f"this adapter was trained on {named}, and nothing shows that {given} is the same"
        raise UserError(Problem(message, adapter.path, field="--base", hint=f"name {named}"))
    return name, revision, ("whether the base is still the one that was trained on is not known: only its name is",)


def _out(adapter: ModelFolder, run: Run | None, out: Path | None, overwrite: bool) -> Path:
    folder = out or (run.merged_dir if run is not None else adapter.path.with_name(adapter.path.name + "-merged"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if folder.resolve() in (adapter.path.resolve(), Path(str(adapter.base)).resolve()):
            raise UserError(Problem("the merged model must not replace what it is made of", folder, field="--out"))
        merged_before = (folder / "config.json").is_file()
        if not overwrite or not merged_before:
            hint = "--overwrite replaces it, --out names another" if merged_before else "--out names another"
            raise UserError(Problem("the folder is in use", folder, field="--out", hint=hint))
    return folder
