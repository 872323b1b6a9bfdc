"""recipes, env, help texts, suggestions and shell completion."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from alignkit import environment, methods
from alignkit.cli import app, main
from alignkit.recipe import shipped

Cli = Callable[..., subprocess.CompletedProcess[str]]


def commands() -> Iterator[tuple[str, Any]]:
    """(words, command) of every command there is."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield name, command
        for inner, below in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", below


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=[words for words, _ in commands()])
def test_every_command_says_what_it_does_and_gives_an_example(words: str, command: Any) -> None:
    text = command.help or ""
    assert re.search(rf"^ *Example: (\S+=\S+ )?alignkit {words.split()[0]}\b", text, re.MULTILINE), text
    assert text[0].isupper() and text.splitlines()[0].rstrip().endswith(".")
    for parameter in command.params:
        assert parameter.name == "help" or getattr(parameter, "help", None), (words, parameter.name)


def failure(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inspekt"], "error: No such command 'inspekt'. Did you mean 'inspect'?"),
        (["recipes", "shwo"], "error: No such command 'shwo'. Did you mean 'show'?"),
        (["sft", "tiny/sft", "--overwritte"], "error: No such option: --overwritte. Did you mean --overwrite?"),
        (
            ["sft", "tiny/sft", "--learning-rate", "1e-4"],
            "error: No such option: --learning-rate. It is a recipe's field: --set training.learning_rate=…",
        ),
        (["sft", "tiny/stf"], "error: tiny/stf: there is no such file; did you mean the shipped recipe tiny/sft?"),
        (["recipes", "copy", "tiny/sft", "/dev/null/x"], "error: /dev/null/x: cannot write there: Not a directory"),
        (["recipes", "show", "qlora-lama"], "error: there is no shipped recipe qlora-lama; did you mean qlora_llama?"),
    ],
)
def test_a_slip_gets_a_suggestion(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failure(capsys, *words) == line + "\n"


def test_ctrl_c_is_told_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt  # what Python makes of SIGINT, unless whoever started the tests had it ignored

    monkeypatch.setattr(environment, "describe", pressed)
    assert failure(capsys, "env", code=130) == "error: stopped\n"


def test_a_terminal_without_unicode_is_no_failure(cli: Cli) -> None:
    done = cli("recipes", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "tiny/sft" in done.stdout, done.stderr


def test_shipped_recipes_are_described() -> None:
    found = {one.name: one for one in shipped.shipped_recipes()}
    assert found["tiny/rlhf_sft"].method == "sft"  # which it has from the recipe that it extends
    tiny = found["tiny/sft"]
    assert (
        tiny.method == "sft" and tiny.memory == "CPU" and tiny.about.startswith("The embedded default: a small Llama")
    )
    assert all(one.method in (*methods.SUMMARIES, *methods.NOT_TRAINED) and one.about for one in found.values())


def test_a_copy_brings_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "shipped"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny" / "dpo.yaml").write_text(
        "# yaml-language-server: $schema=../../schema/recipe.json\nmethod: dpo\nmodel: {from_recipe: sft.yaml}\n"
        "rewards: [{file: 'rewards.py:polite'}]\nextends: ../base.yaml\n"
    )
    (root / "tiny" / "sft.yaml").write_text("method: sft\n")
    (root / "tiny" / "rewards.py").write_text("def polite(): ...\n")
    (root / "base.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(shipped, "folder", lambda kind: root if kind == "recipes" else tmp_path / kind)
    written = shipped.copy("tiny/dpo", tmp_path / "mine")
    names = {str(path.relative_to(tmp_path / "mine")) for path in written}
    assert names == {"tiny/dpo.yaml", "tiny/sft.yaml", "tiny/rewards.py", "base.yaml"}
    first = (tmp_path / "mine" / "tiny" / "dpo.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={tmp_path / 'schema' / 'recipe.json'}"
    with pytest.raises(Exception, match="is there already"):
        shipped.copy("tiny/dpo", tmp_path / "mine")


def test_a_local_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shipped.require("tiny/sft").read_text()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "sft.yaml").write_text(text.replace("seed: 42", "seed: 7"))
    monkeypatch.chdir(tmp_path)
    assert methods.load_recipe("tiny/sft.yaml").seed == 7
    assert methods.load_recipe("recipes/tiny/sft.yaml").seed == 42


def test_env_tells_no_secret(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    secrets = {
        "HF_TOKEN": "hf_aaaaaaaaaaaaaaaaaaaa",
        "WANDB_API_KEY": "bbbbbbbbbbbb",
        "HF_ENDPOINT": "https://me:cccccc@hub.example",
        "HF_HUB_USER_AGENT_ORIGIN": "ci hf_dddddddddddddddddddd",
        "AWS_SECRET_ACCESS_KEY": "eeeeeeeeeeee",
    }
    text = cli("env", **secrets).stdout
    assert "torch: " in text and "transformers: " in text and "HF_TOKEN: (hidden)" in text
    assert "https://(hidden)@hub.example" in text
    for secret in ("aaaaaa", "bbbbbb", "cccccc", "dddddd", "eeeeee"):
        assert secret not in text
    found = json.loads(cli("env", "--json").stdout)
    assert found["packages"]["alignkit"] and found["device"]["threads"]


def test_env_of_a_broken_installation_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(environment.importlib, "import_module", broken)
    assert environment.describe()["device"] == {"error": "OSError: libcudart.so.13: cannot open shared object file"}


def test_the_shell_completes_commands_options_and_recipes(cli: Cli) -> None:
    def complete(words: str, at: int) -> list[str]:
        env = {"_ALIGNKIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return cli(**env).stdout.split()

    assert complete("alignkit insp", 1) == ["inspect"]
    assert "tiny/sft" in complete("alignkit sft tiny/s", 2)
    assert "--overwrite" in complete("alignkit sft tiny/sft --ov", 3)
    assert complete("alignkit recipes copy qlo", 3) == ["qlora_llama"]
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # else it depends on who started the tests
    assert "_ALIGNKIT_COMPLETE" in cli("--show-completion", "bash", **named).stdout
