"""What differs between the circumstances that a manifest tells of and those of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.circumstances import hardware, inputs, variables, versions
from alignkit.recipe import Recipe
from alignkit.runs import Run, git_state
from alignkit.secrets import safely


@dataclass(frozen=True)
class Change:
    """One thing that is not what it was. `content`: what is trained on or from, so that another result is certain."""

    part: str
    name: str
    then: Any
    now: Any
    content: bool = False


def changes(run: Run, recipe: Recipe) -> list[Change]:
    """Everything that differs now from what the manifest of `run` tells; `recipe` is the run's own."""
    then = run.manifest
    found = [*_differing("versions", then.get("versions"), versions()), *_git(then, recipe)]
    machine = {key: value for key, value in (then.get("hardware") or {}).items() if key in hardware()}
    found += _differing("hardware", machine, hardware())
    found += _differing("environment", (then.get("settings") or {}).get("environment"), safely(variables()))
    recorded = (then.get("fingerprints") or {}).get("recipe")
    if recorded is not None and recorded != recipe.fingerprint():
        found.append(Change("recipe", "recipe.yaml", _short(recorded), _short(recipe.fingerprint()), content=True))
    return [*found, *_inputs(run, recipe)]


def start_of_run(run: Run) -> str | None:
    """The folder that the run's `model.from_recipe` came to, where it is still there."""
    start = run.manifest.get("start")
    return start if isinstance(start, str) and Path(start).is_dir() else None


def results_of_run(run: Run) -> dict[str, str]:
    """The results of the other recipes that the run was made with, those that are still there."""
    told = run.manifest.get("results") or {}
    return {named: folder for named, folder in told.items() if Path(folder).is_dir()}


def accelerate_of_run(run: Run) -> str | None:
    """What `--accelerate` said when the run was made."""
    words = run.manifest.get("command") or []
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == "--accelerate":
            return following
        if str(word).startswith("--accelerate="):
            return str(word).partition("=")[2]
    return None


def _differing(part: str, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Iterator[Change]:
    if then is None:  # of an older version, whose manifests did not tell
        return
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield Change(part, name, then.get(name), now.get(name))


def _git(then: Mapping[str, Any], recipe: Recipe) -> Iterator[Change]:
    before = then.get("git") or {}
    folder = Path(before.get("folder") or recipe.base_dir)
    now = (git_state(folder) if folder.is_dir() else None) or {}
    yield from _differing("git", {"commit": _short(before.get("commit"))}, {"commit": _short(now.get("commit"))})
    if before.get("dirty") or now.get("dirty"):  # then a commit does not tell the code, even where it is the same
        words = {True: "with changes not committed", False: "clean", None: None}
        yield Change("git", "state", words[before.get("dirty")], words[now.get("dirty")])


def _inputs(run: Run, recipe: Recipe) -> Iterator[Change]:
    """An input that is not there counts as changed, but for results of other recipes: those are made again first."""
    before: Mapping[str, Any] = run.manifest.get("inputs") or {}
    again, start = recipe.model.from_recipe is not None, start_of_run(run)
    now = inputs(recipe, start if again else None, results_of_run(run))
    from_start = ("base", "adapter", "tokenizer", "template")
    for name, entry in before.items():
        fingerprint, found = entry.get("fingerprint"), now.get(name, {}).get("fingerprint")
        if fingerprint == found:
            continue
        gone = found is None
        remade = gone and (name.startswith("result of ") or (again and start is None and name in from_start))
        shown = "made again first" if remade else f"not found at {entry.get('path')}" if gone else _short(found)
        yield Change("inputs", name, _short(fingerprint), shown, content=not remade)


def _short(fingerprint: Any) -> Any:
    return fingerprint[:12] if isinstance(fingerprint, str) else fingerprint
