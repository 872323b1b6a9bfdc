"""What is in the wheel: installed into a fresh environment and used from another folder, it has all that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alignkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `alignkit` command of a fresh environment, which sees the libraries of this one but not this checkout."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(place), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True, timeout=300)
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    (wheel,) = place.glob("alignkit-*.whl")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True, text=True, timeout=300)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = place / "env" / "lib" / version / "site-packages"
    # A .pth file adds a folder behind the environment's own; .pth files there, as of an editable install, are not read.
    (libraries / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent / "alignkit"


def run(command: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(command), *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def test_recipes_configs_and_assets_travel(alignkit: Path, tmp_path: Path) -> None:
    where = run(alignkit.parent / "python", "-c", "import alignkit; print(alignkit.__file__)", cwd=tmp_path)
    package = Path(where.stdout.strip()).parent
    assert ROOT not in package.parents, where
    shipped = {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {path.relative_to(package / "recipes") for path in (package / "recipes").rglob("*.yaml")} == shipped
    configs = {path.name for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    assert {path.name for path in (package / "accelerate_configs").glob("*.yaml")} == configs
    listed = run(alignkit, "recipes", cwd=tmp_path)
    assert len(listed.stdout.splitlines()) == len(shipped), listed.stderr
    copied = run(alignkit, "recipes", "copy", "tiny/sft", "mine", cwd=tmp_path)
    assert copied.stdout == "mine/sft.yaml\n", copied.stderr
    schema = (tmp_path / "mine" / "sft.yaml").read_text().splitlines()[0].split("=", 1)[1]
    assert Path(schema) == package / "schema" / "recipe.json" and Path(schema).is_file()


def test_it_trains_from_another_folder(alignkit: Path, tmp_path: Path) -> None:
    short = ("training.max_steps=2", "training.save_steps=2", "training.eval_steps=2", "evaluation=[]")
    words = [word for one in short for word in ("--set", one)]
    done = run(alignkit, "sft", "tiny/sft", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tiny-sft" / "report.html").is_file()
    recipe = yaml.safe_load((tmp_path / "runs" / "tiny-sft" / "recipe.yaml").read_text())
    assert recipe["model"]["tokenizer_name_or_path"] == "alignkit:characters"
