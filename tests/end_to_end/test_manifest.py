"""The manifest of a real run: what made it, what it read, what it cost; and no secret anywhere in its folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignkit.model_folders import weights_fingerprint

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
TOKEN = "hf_" + "q7Zx" * 8
WORD = "averySecretWord"


def leaked(text: str) -> bool:
    return any(secret in text for secret in (TOKEN, WORD, "hunter22"))


def test_the_manifest_tells_everything_and_no_secret(
    cli: Cli, tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], write_jsonl: Callable[..., Path],
    tmp_path: Path, tiny_model: Path,
) -> None:  # fmt: skip
    data = write_jsonl([{"text": f"{n}+{n}={2 * n}"} for n in range(40)])
    tiny_recipe["model"] = {"model_name_or_path": str(tiny_model), "dtype": "float32"}
    tiny_recipe["data"] = {"train": [{"path": str(data)}]}
    recipe = write_recipe(tiny_recipe)
    secret = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": WORD, "HTTPS_PROXY": "http://me:hunter22@proxy"}
    for given in (
        f"training.hub_token={TOKEN}",
        f"data.train.0.path=https://me:{TOKEN}@host/a.jsonl",
        f"training.run_name={WORD}",
    ):
        refused = cli("sft", recipe, "--set", given, **secret)
        assert refused.returncode == 2 and "no place for a secret" in refused.stderr and not leaked(refused.stderr)
        assert not (tmp_path / "run").exists()
    done = cli("sft", recipe, **secret)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 15 and not [path for path in files if leaked(path.read_bytes().decode("latin-1"))]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["versions"].keys() >= {"python", "alignkit", "torch", "trl", "numpy", "typer", "sentencepiece"}
    assert manifest["hardware"].keys() >= {"cpu", "cores", "memory_gib", "gpus", "threads"}
    assert manifest["settings"]["processes"] == 1 and manifest["settings"]["attention"] == "sdpa"
    assert manifest["inputs"].keys() == {"base", "tokenizer", "template", "data.train.0"}
    assert all(len(entry["fingerprint"]) == 64 for entry in manifest["inputs"].values())
    assert manifest["fingerprints"].keys() == {"recipe", "base", "data", "template", "tokenizer"}
    result = manifest["result"]
    assert result["weights"] == weights_fingerprint(str(tmp_path / "run" / "model"), exact=True)
    embedding = load_file(tmp_path / "run/model/model.safetensors")["model.embed_tokens.weight"].numel()
    assert result["flops"] == result["tokens"] * 6 * (manifest["model"]["parameters"] - embedding)


def test_an_exact_fingerprint_sees_one_changed_value(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"w": torch.zeros(4000)}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file(weights, tmp_path / folder / "model.safetensors")
        weights["w"][777] = 1  # between the samples
    sampled, exact = ([weights_fingerprint(str(tmp_path / f), exact=e) for f in "ab"] for e in (False, True))
    assert sampled[0] == sampled[1] and exact[0] != exact[1]


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_tokenizer_and_its_template_are_told_apart(tiny_model: Path, tmp_path: Path, place: str) -> None:
    from alignkit.model_folders import tokenizer_files_fingerprint

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    before = tokenizer_files_fingerprint(copy)
    assert before == tokenizer_files_fingerprint(tiny_model)
    text = json.dumps({"tokenizer_class": "Other"}) if place.endswith("json") else "{{ messages }}"
    (copy / place).write_text(text)
    after = tokenizer_files_fingerprint(copy)
    assert (before[0] == after[0], before[1] == after[1]) == (not place.endswith("json"), place.endswith("json"))
