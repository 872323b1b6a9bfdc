"""What a bug report needs of this machine, secrets left out."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkit.circumstances import cpu_name, package_version
from alignkit.secrets import safe_setting

PACKAGES = (
    "alignkit", "torch", "transformers", "tokenizers", "trl", "peft", "accelerate", "datasets", "bitsandbytes",
    "evaluate", "safetensors", "huggingface_hub", "pydantic", "typer", "numpy", "pyarrow", "deepspeed", "vllm",
    "flash-attn", "liger-kernel",
)  # fmt: skip
PREFIXES = ("ALIGNKIT_", "HF_", "TRANSFORMERS_", "ACCELERATE_", "CUDA_", "NVIDIA_VISIBLE", "NCCL_", "TORCH", "PYTORCH_",
            "OMP_", "MKL_", "GOMP_", "TOKENIZERS_", "BNB_", "WANDB_", "SLURM_JOB", "XDG_CACHE", "LOCAL_RANK", "RANK",
            "WORLD_SIZE", "MASTER_")  # fmt: skip


def describe() -> dict[str, Any]:
    """Sections of name -> value, as plain data. Nothing raises: what cannot be found out is said in its place."""
    return {
        "system": {
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "cpu": f"{_told(cpu_name)}, {os.cpu_count()} cores",
            "memory": _told(_memory),
            "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 2**30:,.1f} GiB",
        },
        "packages": {name: found for name in PACKAGES if (found := package_version(name)) is not None},
        "device": _told_section(_device),
        "accelerate config": _told_section(_accelerate),
        "environment": {name: safe_setting(name, value) for name, value in sorted(os.environ.items()) if _ours(name)},
    }


def _told(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as error:
        return f"not known ({type(error).__name__}: {error})"


def _told_section(ask: Callable[[], dict[str, str]]) -> dict[str, str]:
    try:
        return ask()
    except Exception as error:  # a broken installation is what bug reports are about
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _memory() -> str:
    import psutil

    found = psutil.virtual_memory()
    return f"{found.total / 2**30:,.1f} GiB, {found.available / 2**30:,.1f} free"


def _device() -> dict[str, str]:
    torch: Any = importlib.import_module("torch")
    built = [f"{name} {number}" for name in ("cuda", "hip") if (number := getattr(torch.version, name, None))]
    found = {
        "accelerator": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "none",
        "torch built for": ", ".join(built) or "CPU",
        "threads": str(torch.get_num_threads()),
        "bfloat16": "native" if _bfloat16() else "emulated",
    }
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(number)
        free = torch.cuda.mem_get_info(number)[0]
        found[f"GPU {number}"] = (
            f"{device.name}, {device.total_memory / 2**30:,.1f} GiB ({free / 2**30:,.1f} free), "
            f"compute capability {device.major}.{device.minor}"
        )
    return found


def _bfloat16() -> bool:
    precision: Any = importlib.import_module("alignkit.models.precision")
    return bool(precision.computes_bfloat16(precision.choose_device()))


def _accelerate() -> dict[str, str]:
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    default = home / "accelerate" / "default_config.yaml"
    if not default.is_file():
        return {"default": "none"}
    lines = (line.partition(":") for line in default.read_text(encoding="utf-8").splitlines() if ":" in line)
    return {name.strip(): safe_setting(name, value.strip()) for name, _, value in lines}


def _ours(name: str) -> bool:
    return name.startswith(PREFIXES)
