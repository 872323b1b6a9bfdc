"""Which files a source means: one file, a glob, a folder with its splits; or none of them, a Hub id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import Problem, UserError
from alignkit.examples.types import did_you_mean

if TYPE_CHECKING:
    from alignkit.recipe.sections import Source

FORMATS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
}
PACKAGED = ("json", "csv", "parquet", "text", "arrow")  # load_dataset's own names for "files of this format"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
# What Hugging Face's libraries and repositories keep beside the data.
NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "requirements.txt"}
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")


def format_of(path: Path | str) -> str | None:
    """The format that a file's name tells ("jsonl" for `a.jsonl.gz`), or None for what alignkit does not read."""
    name = Path(path).name.lower().removesuffix(".gz")
    found = FORMATS.get(Path(name).suffix)
    compressed = str(path).lower().endswith(".gz")
    return None if compressed and found in ("parquet", "arrow") else found


def local_files(source: Source, base_dir: Path) -> list[Path] | None:
    """The files of a local source, sorted; None for a Hub id, [] for a generator.

    Relative paths start at `base_dir`, the recipe's folder. Raises UserError for a missing file, an empty glob, a
    folder without data or with several formats or splits.
    """
    if source.generate is not None or source.path is None:
        return []
    if source.path in PACKAGED and source.data_files is not None:
        return _listed(source, base_dir)
    path = _full(source.path, base_dir)
    if path.is_dir():
        files = _listed(source, path) if source.data_files is not None else _folder(path, source.split)
    elif path.is_file():
        files = [path]
    elif not _is_local(source.path, base_dir):
        return None
    elif _is_glob(source.path):
        files = _glob(source.path, base_dir)
    else:
        raise _missing(source.path, path, base_dir)
    if path.is_file() and source.split not in (None, "train"):
        raise _error("split", f"{source.path} is one file and has no split {source.split}", "leave split out")
    if files is not None:
        _one_format(files, source.path)
    return files


def _error(field: str, message: str, hint: str | None = None) -> UserError:
    return UserError(Problem(message, field=field, hint=hint))


def _full(path: str, base_dir: Path) -> Path:
    return base_dir / Path(path).expanduser()


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _is_local(path: str, base_dir: Path) -> bool:
    """Whether a path that does not exist was meant as one: its name, not the network, has to tell."""
    if "://" in path:
        return False
    if path.startswith((".", "/", "~")) or _is_glob(path) or format_of(path) is not None:
        return True
    if not HUB_ID.match(path):
        return True
    folder = _full(path, base_dir).parent
    # `data/trian` beside a folder `data/train` is a slip of the pen, not an organisation called "data".
    return "/" in path and folder.is_dir() and did_you_mean(Path(path).name, _names(folder)) is not None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _missing(written: str, path: Path, base_dir: Path) -> UserError:
    if path.suffix and format_of(path) is None and path.suffix in (".zst", ".xz", ".bz2", ".zip"):
        return _error("path", f"cannot read {written}: of compressed files only .gz is read", "unpack it first")
    hint = did_you_mean(path.name, _names(path.parent))
    if hint is None and Path(written).expanduser().exists():
        hint = f"it is in the current folder, but paths start at the recipe's folder, {base_dir}"
    if hint is None and not path.parent.is_dir():
        hint = f"there is no folder {path.parent}"
    return _error("path", f"no file or folder {written}", hint)


def _glob(pattern: str, base_dir: Path) -> list[Path]:
    parts = Path(pattern).expanduser().parts
    first = next(number for number, part in enumerate(parts) if _is_glob(part))
    root = base_dir.joinpath(*parts[:first])  # may itself hold brackets, which are then no pattern
    matched = [path for path in root.glob("/".join(parts[first:])) if path.is_file()] if root.is_dir() else []
    files = sorted(path for path in matched if format_of(path) is not None)
    if not files:
        there = f"{len(matched)} files match, but none has a known extension" if matched else "nothing matches"
        raise _error("path", f"{pattern}: {there}", None if matched else f"looked from {root}")
    return files


def _listed(source: Source, folder: Path) -> list[Path] | None:
    """The files that `data_files` names (a pattern, a list, or a mapping from split to either), below `folder`."""
    listed = source.data_files
    if isinstance(listed, dict):
        split = source.split or "train"
        if split not in listed:
            raise _error("data_files", f"no split {split} among {', '.join(listed)}", did_you_mean(split, listed))
        listed = listed[split]
    patterns = [listed] if isinstance(listed, str) else list(listed or [])
    if any("://" in pattern for pattern in patterns):
        return None
    files: list[Path] = []
    for pattern in patterns:
        path = _full(pattern, folder)
        if _is_glob(pattern):
            files += _glob(pattern, folder)
        elif path.is_file():
            files.append(path)
        else:
            hint = did_you_mean(path.name, _names(path.parent))
            raise _error("data_files", f"no file {pattern} in {folder}", hint)
    _one_format(files, str(folder))
    return files


def _data_files(folder: Path) -> list[Path]:
    """The folder's data files at any depth. Texts in Markdown count only where there is nothing else (README.md)."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        # datasets keeps the results of map() beside the data of a saved dataset as cache-….arrow.
        stale = path.name in NOT_DATA or (path.suffix == ".arrow" and path.name.startswith("cache-"))
        if not hidden and not stale and format_of(path) is not None and path.is_file():
            files.append(path)
    without_notes = [path for path in files if path.suffix.lower() != ".md"]
    return without_notes or files


def split_of(path: Path) -> str | None:
    """The split that a relative path names, as `datasets` reads it: `train.jsonl`, `test/a.jsonl`,
    `data/train_sft-00000-of-00003.parquet`; None where it names none."""
    if path.suffix == ".arrow":  # a saved dataset: data-00000-of-00001.arrow, in a folder named for its split if any
        return path.parent.name or None
    shard = SHARD.match(path.name)
    if shard:
        return SPLIT_WORDS.get(shard[1], shard[1])
    for part in (path.name.split(".")[0], *reversed(path.parent.parts)):
        for word in re.split(r"[^A-Za-z]+", part.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None


def _folder(folder: Path, split: str | None) -> list[Path]:
    files = _data_files(folder)
    if not files:
        known = ", ".join(FORMATS)
        raise _error("path", f"no data files in the folder {folder}", f"alignkit reads {known}, the text ones also .gz")
    splits = {path: split_of(path.relative_to(folder)) for path in files}
    named = sorted({found for found in splits.values() if found})
    if split is None:
        if len(named) > 1:
            raise _error("split", f"the folder {folder} has splits {', '.join(named)}", "say which one with split:")
        return files
    if "[" in split:
        raise _error("split", f"slices such as {split} are for Hub datasets", "use max_rows for local files")
    wanted = SPLIT_WORDS.get(split, split)
    chosen = [path for path, found in splits.items() if found == wanted or path.name.split(".")[0] == split]
    if not chosen:
        have = ", ".join(named) if named else "none that its file names tell"
        raise _error("split", f"no split {split} in the folder {folder}, which has {have}", did_you_mean(split, named))
    return chosen


def _one_format(files: Iterable[Path], where: str) -> None:
    by_format: dict[str, str] = {}
    for path in files:
        found = format_of(path)
        if found is None:
            known = ", ".join(FORMATS)
            raise _error("path", f"cannot tell the format of {path.name}", f"known: {known}, the text ones also .gz")
        by_format.setdefault(found, path.name)
    if len(by_format) > 1:
        mixed = ", ".join(f"{name} ({kind})" for kind, name in sorted(by_format.items()))
        raise _error("path", f"{where} mixes formats: {mixed}", "name the files with a glob, such as *.jsonl")
