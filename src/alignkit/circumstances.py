"""Under what circumstances a run trains: versions, machine, settings, and the content of everything that it reads.

The manifest keeps them, and `alignkit reproduce` asks for them again; none of it needs torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from alignkit.errors import UserError
from alignkit.examples.files import local_files
from alignkit.examples.hashes import file_hashes
from alignkit.model_folders import (
    PACKAGED,
    TOKENIZERS,
    cached_snapshot,
    describe_folder,
    model_place,
    result_folder,
    start_of,
    tokenizer_files_fingerprint,
    weights_fingerprint,
)
from alignkit.recipe import Recipe
from alignkit.recipe.paths import defining_file, input_paths, local_path
from alignkit.recipe.sections import Source

PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "evaluate", "tokenizers",
    "sentencepiece", "safetensors", "huggingface_hub", "numpy", "scipy", "scikit-learn", "pyarrow", "sacrebleu",
    "rouge-score", "seqeval", "math-verify", "pydantic", "typer", "jinja2", "psutil", "triton", "deepspeed", "vllm",
    "flash-attn", "liger-kernel", "lm_eval", "nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12",
    "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-nccl-cu13",
)  # fmt: skip
# Variables that change which numbers come out, or which device computes them.
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NCCL_ALGO", "NCCL_PROTO", "PYTHONHASHSEED",
)  # fmt: skip

MODELS = ("model.model_name_or_path", "model.tokenizer_name_or_path")  # told as `base`, `adapter` and `tokenizer`


def versions() -> dict[str, str | None]:
    """Of Python, alignkit and every library that bears on a result; those that are not installed are left out."""
    found = {name: number for name in PACKAGES if (number := package_version(name)) is not None}
    own = {"alignkit": package_version("alignkit"), "alignkit code": code_fingerprint()}
    return {"python": platform.python_version(), **own, **found}


def code_fingerprint() -> str:
    """Of alignkit's own code, which a version number tells only of a release: the first digits of its SHA-256."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """The processor, its cores, memory in GiB, the GPUs with their driver, and the platform."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
        "platform": platform.platform(),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def gpus() -> list[str]:
    """`NAME, MEMORY, driver VERSION` of each NVIDIA GPU that the driver shows; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line.count(",") == 2]
    return [f"{name}, {memory}, driver {driver}" for name, memory, driver in rows]


def variables() -> dict[str, str]:
    """The environment's settings that change which numbers come out."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


# ---------------------------------------------------------------------- what is read
def inputs(recipe: Recipe, start: str | None = None, results: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The content of everything that the recipe reads: name -> {path, fingerprint}.

    Names are the recipe's fields, and `base`, `tokenizer` and `template` of the model that training starts from. A
    fingerprint is None where the content is not on this machine (a data set on the Hub; `data` of the manifest's
    fingerprints tells that apart once it is read).

    Args:
        start: the folder that `model.from_recipe` came to.
        results: each other recipe that is named -> the folder of its result.
    """
    found = {**_models(recipe, start), **dict(_data(recipe)), **dict(_others(recipe))}
    for named, folder in (results or {}).items():
        found[f"result of {Path(named).name}"] = _entry(folder, weights_fingerprint(folder))
    return found


def _entry(path: str | Path, fingerprint: str | None) -> dict[str, Any]:
    return {"path": str(path), "fingerprint": fingerprint}


def _models(recipe: Recipe, start: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model, source = recipe.model, start_of(recipe, start)
    revision = model.revision if start is None else None
    tokenizer: str | None = source
    if source is not None:
        base = source
        if Path(source).is_dir():
            folder = describe_folder(source)
            base = folder.base or source if folder.kind == "adapter" else source
            tokenizer = source if folder.tokenizer or base == source else base
        found["base"] = _entry(base, weights_fingerprint(base, revision))
        if base != source:
            found["adapter"] = _entry(source, weights_fingerprint(source))
    elif isinstance(model.config, str):
        tokenizer = str(recipe.base_dir / model.config)
    if model.tokenizer_name_or_path is not None:
        tokenizer, revision = _tokenizer_named(model.tokenizer_name_or_path, recipe.base_dir), None
    if tokenizer is not None:
        folder_of = Path(tokenizer) if Path(tokenizer).is_dir() else cached_snapshot(tokenizer, revision)
        of_text, of_template = (None, None) if folder_of is None else tokenizer_files_fingerprint(folder_of)
        found["tokenizer"] = _entry(tokenizer, of_text)
        if of_template is not None and model.chat_template_path is None:
            found["template"] = _entry(tokenizer, of_template)
    return found


def _tokenizer_named(name: str, base_dir: Path) -> str:
    if name.startswith(PACKAGED):
        return str(TOKENIZERS / name.removeprefix(PACKAGED))
    place = model_place(name, base_dir)
    return name if place is None else str(result_folder(place))


def _sources(recipe: Recipe) -> Iterator[tuple[str, Source]]:
    data = recipe.data
    parts = [] if data is None else [("data.train", data.train), ("data.eval", data.eval)]
    parts += [(f"evaluation.{number}.data", task.data) for number, task in enumerate(recipe.evaluation)]
    for name, sources in parts:
        for number, source in enumerate(sources or ()):
            yield f"{name}.{number}", source


def _data(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, source in _sources(recipe):
        if source.path is None:
            continue  # made by a generator, from options that stand in the recipe
        try:
            files = local_files(source, recipe.base_dir)
            hashes = None if files is None else [hashed for _, hashed in file_hashes(files)]
        except (UserError, OSError):  # gone, or moved
            hashes = None
        local = local_path(source.path, recipe.base_dir)
        yield name, _entry(local or source.path, None if hashes is None else _hash_of(hashes))


def _others(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rewards' files, other recipes, a template, a reference: whatever else the recipe names."""
    told = tuple(f"{name}." for name, _ in _sources(recipe))
    for place, text in input_paths(recipe):
        name = ".".join(map(str, place))
        local = local_path(text, recipe.base_dir)
        if (
            local is None
            or name.startswith(told)
            or name in ("model.model_name_or_path", "model.tokenizer_name_or_path")
        ):
            continue
        path = defining_file(local) or local
        if path.is_file():
            yield name, _entry(path, _hash_of([hashed for _, hashed in file_hashes([path])]))
        elif path.is_dir():
            yield name, _entry(path, weights_fingerprint(str(result_folder(path))))
        else:
            yield name, _entry(path, None)


def _hash_of(hashes: list[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
