"""What counts as a secret: tokens by their shape, passwords in URLs, values of secret variables; and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from alignkit import api
from alignkit.console import logged_to
from alignkit.errors import UserError
from alignkit.runs import Run
from alignkit.secrets import HIDDEN, safe, safely

TOKEN = "hf_" + "aB3d" * 8


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{TOKEN}@host/x",
        "https://me:hunter2@host/x",
        f"GET /api?token={TOKEN}&page=2",
        "sk-" + "ant-" + "abcdefghij" * 3,
        "ghp_0123456789abcdefghij",
        "Authorization: Bearer abcdefghijkl",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    hidden = safe(text)
    assert HIDDEN in hidden
    assert not any(part in hidden for part in (TOKEN, "hunter2", "abcdefghij", "0123456789"))


@pytest.mark.parametrize(
    "text",
    [
        "skateboarding_is_fun",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
        "https://huggingface.co/org/name?page=2",
        "git@github.com:org/name.git",
        "max_new_tokens=256",
        "runs/sk-learn-baseline",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert safe(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRACKER_API_KEY", "plainLooking")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/.token")
    assert safely({"a": ["x plainLooking y", 3], "b": "/home/me/.token"}) == {
        "a": [f"x {HIDDEN} y", 3],
        "b": "/home/me/.token",
    }
    with logged_to(tmp_path / "log.txt") as warned:
        try:
            raise ValueError("refused: plainLooking")
        except ValueError:
            logging.getLogger("alignkit").exception("with %s", "plainLooking")
    text = (tmp_path / "log.txt").read_text()
    assert "refused: (hidden)" in text and "plainLooking" not in text + "".join(warned.messages)
    run = Run(tmp_path / "run")
    with run.hold():
        run.update_manifest({"command": ["alignkit", "plainLooking"]})
        run.write_state("failed", error="no entry for plainLooking")
    written = run.manifest_path.read_text() + run.state_path.read_text()
    assert "plainLooking" not in written and written.count(HIDDEN) == 2


def test_a_recipe_with_a_secret_is_refused_without_quoting_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"method: sft\noutput_dir: run\nmodel:\n  model_name_or_path: https://me:{TOKEN}@host/model\n")
    with pytest.raises(UserError) as caught:
        api.load_recipe(path, ["training.hub_token=" + TOKEN])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}:4: model.model_name_or_path: holds a token, a URL with a password")
    assert "training.hub_token" in lines[1] and TOKEN not in str(caught.value)
