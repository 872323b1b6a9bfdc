"""What a model folder holds: which kind it is, what it stands on, and what is wrong with its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignkit.model_folders.names import result_folder
from alignkit.recipe import Head

BASE = "base"
"""Beside an adapter: the base it stands on, where that exists nowhere else (merged, resized, or random weights)."""
HEADS = ("score", "classifier")
"""What transformers calls the heads of its classifiers; peft trains and saves modules of these names."""
_LFS_MARK = b"version https://git-lfs"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "bpe.codes", "vocab.bpe"),
)
_TOKENIZERS_WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
_WEIGHTS = {
    "model": (
        ("safetensors", "model.safetensors", "model.safetensors.index.json"),
        ("pickle", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ),
    "adapter": (
        ("safetensors", "adapter_model.safetensors", None),
        ("pickle", "adapter_model.bin", None),
    ),
}


@dataclass(frozen=True)
class ModelFolder:
    """A local folder that names a model: what kind it is, what it stands on and what is wrong with it."""

    kind: Literal["model", "adapter"]
    path: Path
    """Where config and weights lie; for a run folder its `model/`."""
    config: dict[str, Any] = field(default_factory=dict)
    """config.json of a full model, adapter_config.json of an adapter; empty where it is missing or broken."""
    base: str | None = None
    """An adapter's base model: a folder (absolute, if it exists) or a Hub id."""
    weights: Literal["safetensors", "pickle"] | None = None
    tokenizer: bool = False
    run: Path | None = None
    """The run folder, where the path given was one."""
    problems: tuple[str, ...] = ()

    @property
    def head(self) -> Head:
        """What the model, or the adapter, has on top."""
        return head_of(self.config)


def head_of(config: Mapping[str, Any]) -> Head:
    """What a model, or an adapter, has on top, by its config."""
    task = str(config.get("task_type") or next(iter(config.get("architectures") or ()), ""))
    if task == "TOKEN_CLS" or task.endswith("TokenClassification"):
        return "token_classification"
    texts = task == "SEQ_CLS" or task.endswith("SequenceClassification")
    return "sequence_classification" if texts else "causal_lm"


def describe_folder(path: str | Path) -> ModelFolder:
    """Say what the model, adapter or run folder at `path` (an existing folder) holds; nothing is raised."""
    given = Path(path)
    folder = result_folder(given)
    run = given if folder != given else None
    kind: Literal["model", "adapter"] = "adapter" if (folder / "adapter_config.json").is_file() else "model"
    config, problem = read_config(folder, "adapter_config.json" if kind == "adapter" else "config.json")
    weights, weight_problems = _weights(folder, kind)
    problems = [*([problem] if problem else []), *weight_problems]
    base = config.get("base_model_name_or_path") if kind == "adapter" else None
    if kind == "adapter" and not base and not problem:
        problems.append(f"{folder / 'adapter_config.json'} does not name its base model (base_model_name_or_path)")
    if base and not Path(base).is_absolute() and (folder / base).is_dir():
        base = str((folder / base).resolve())
    elif base and Path(base).is_dir():
        base = str(Path(base).absolute())
    elif base and Path(base).name == BASE and (folder / BASE).is_dir():  # the adapter's folder was moved
        base = str((folder / BASE).absolute())
    return ModelFolder(kind, folder, config, base, weights, has_tokenizer(folder), run, tuple(problems))


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a tokenizer's vocabulary, or names one of the few tokenizers that need none."""
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return True
    settings, _ = read_config(folder, "tokenizer_config.json")
    return settings.get("tokenizer_class") in _TOKENIZERS_WITHOUT_FILES


def read_config(folder: Path, name: str) -> tuple[dict[str, Any], str | None]:
    path = folder / name
    if not path.is_file():
        return {}, f"{folder} has no {name}"
    if _is_lfs_pointer(path):
        return {}, f"{path} is a git-lfs pointer, not the file itself"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        return {}, f"{path}:{error.lineno} is not valid JSON ({error.msg})"
    except (OSError, UnicodeDecodeError) as error:
        return {}, f"{path} cannot be read ({error})"
    return (config, None) if isinstance(config, dict) else ({}, f"{path} does not hold a JSON object")


def _weights(
    folder: Path, kind: Literal["model", "adapter"]
) -> tuple[Literal["safetensors", "pickle"] | None, list[str]]:
    """The format of the folder's weights (safetensors wins, as it does upstream), and what is wrong with them."""
    for form, single, index in _WEIGHTS[kind]:
        if (folder / single).is_file():
            return form, list(_file_problems([folder / single]))  # type: ignore[return-value]
        if index and (folder / index).is_file():
            return form, list(_shard_problems(folder, index))  # type: ignore[return-value]
    names = " or ".join(single for _, single, _ in _WEIGHTS[kind])
    return None, [f"{folder} has no weights ({names})"]


def _shard_problems(folder: Path, index: str) -> Iterator[str]:
    content, problem = read_config(folder, index)
    if problem:
        yield problem
        return
    shards = sorted(set(content.get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        yield f"{folder} lacks {len(missing)} of the {len(shards)} weight files that {index} names: {shown}"
    yield from _file_problems([folder / name for name in shards if name not in missing])


def _file_problems(paths: list[Path]) -> Iterator[str]:
    pointers = [path for path in paths if _is_lfs_pointer(path)]
    if pointers:
        yield f"{pointers[0]} is a git-lfs pointer, not the weights; run `git lfs pull` in {pointers[0].parent}"
    for path in paths:
        if path not in pointers and path.suffix == ".safetensors" and (problem := safetensors_problem(path)):
            yield problem


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_MARK)) == _LFS_MARK


def safetensors_problem(path: Path) -> str | None:
    """Whether the file is as long as its own header says (a broken download is not), for the cost of one small read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"{path} is cut short or is no safetensors file ({size} bytes)"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{path} is no safetensors file (its header cannot be read)"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{path} is cut short: {size} bytes where its header says {expected}"


def labels_in_adapter(folder: str | Path) -> int | None:
    """The outputs of the head that the adapter in `folder` holds; None where it holds none, or lies on the Hub."""
    path = Path(folder) / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [
        entry["shape"]
        for name, entry in header.items()
        if name.endswith(".weight") and "lora_" not in name and any(part in HEADS for part in name.split("."))
    ]
    return min((shape[0] for shape in shapes if len(shape) == 2), default=None)


def find_template(path: Path) -> str | None:
    """The chat template in a .jinja file or in a tokenizer's folder; None where there is none."""
    if path.is_file():
        return path.read_text(encoding="utf-8") or None
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    found = read_config(path, "tokenizer_config.json")[0].get("chat_template")
    if isinstance(found, list):  # several named ones, as upstream once kept them
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found
