"""YAML with lines, `extends:` and `--set`."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_classes import CLASSES, START, loaded, refusal

from alignkit.errors import UserError
from alignkit.recipe import load
from alignkit.recipe.source import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n\tb: 2\n", "r.yaml:2: not valid YAML: a tab cannot indent; use spaces"),
        ("a: b: c\n", "r.yaml:1: not valid YAML: a second `:` in one line; put text that holds `: ` in quotes"),
        ("a: [1,\nb: 2\n", "r.yaml:1: not valid YAML: a quote or bracket that begins here is not closed"),
        ("a: 'x\nb: 1\n", "r.yaml:1: not valid YAML: a quote or bracket that begins here is not closed"),
        ("a:\n  b: 1\n c: 2\n", "r.yaml:3: not valid YAML: this line does not fit the ones before it"),
        ("a: 1\n---\nb: 2\n", "a recipe is one YAML document"),
        ("a: *b\n", "r.yaml:1: not valid YAML: there is no anchor for the alias 'b'"),
        ("a: &a [*a]\n", "r.yaml:1: a.0: an alias that holds itself"),
        ("a: !x 1\n", "r.yaml:1: a: the tag !x means nothing in a recipe"),
        ("a: 1\nb: \x01\n", "r.yaml:2: not valid YAML: holds a character that YAML does not allow"),
        ("? [1]\n: 2\n", "r.yaml:1: a key must be a plain word"),
        ("", "r.yaml: the recipe is empty"),
        ("# nothing\n", "r.yaml: the recipe is empty"),
        ("- a\n", "r.yaml:1: a recipe is a mapping of sections"),
    ],
)
def test_what_is_not_yaml_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    (problem,) = refusal(text, tmp_path)
    assert expected in problem
    assert "\n" not in problem


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"method: sft\nname: \xff\n")
    with pytest.raises(UserError) as caught:
        load(path, CLASSES)
    assert str(caught.value) == f"{path}:2: not UTF-8 text"


def test_duplicate_keys_name_both_lines(tmp_path: Path) -> None:
    text = START + "training:\n  seed: 1\n  packing: true\n  seed: 2\nmodel: {}\n"
    assert refusal(text, tmp_path) == [
        "r.yaml:7: training.seed: given twice: first in line 5, again here",
        "r.yaml:8: model: given twice: first in line 3, again here",
    ]


def test_scalars_read_as_they_look() -> None:
    data = parse("a: 2e-4\nb: 1.0e-5\nc: no\nd: 0o10\ne: 2024-01-01\nf: ~\ng: 1_000\nh: '5'\ni: .5\n", "x").data
    assert data == {
        **{"a": 2e-4, "b": 1e-5, "c": "no", "d": 8, "e": "2024-01-01", "f": None, "g": 1000, "h": "5", "i": 0.5}
    }


def test_anchors_and_merge_keys() -> None:
    document = parse("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\ne: *x\n", "x")
    assert document.data == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}}
    assert document.place(("d", "c")).line == 4


def test_editor_comments_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    assert loaded("\ufeff# yaml-language-server: $schema=x\n" + START, tmp_path).method == "sft"


# ---------------------------------------------------------------------- extends
def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "b.yaml").write_text(
        START + "data: {train: [x, y], loss_on: all}\ntraining: {learning_rate: 1.0, optim: sgd}\nadapter: {r: 4}\n"
    )
    text = "extends: base/b.yaml\ndata: {train: [z]}\ntraining: {learning_rate: 2.0}\nadapter: null\n"
    recipe = loaded(text, tmp_path)
    assert [source.path for source in recipe.data.train] == ["z"]
    assert recipe.data.loss_on == "all"
    assert (recipe.training.learning_rate, recipe.training.optim, recipe.adapter) == (2.0, "sgd", None)
    assert recipe.base_dir == tmp_path
    assert str(recipe.problem("training.optim", "no")) == f"{tmp_path}/base/b.yaml:5: training.optim: no"
    assert str(recipe.problem("training.learning_rate", "no")) == f"{tmp_path}/r.yaml:3: training.learning_rate: no"


def test_problems_in_an_extended_file_name_that_file(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(START + "seeed: 1\n")
    assert refusal("extends: b.yaml\nsed: 2\n", tmp_path) == [
        "r.yaml:2: sed: unknown field; did you mean seed?",
        "b.yaml:4: seeed: unknown field; did you mean seed?",
    ]


def test_paths_of_an_extended_file_start_from_it(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "rows.jsonl").write_text("")
    (tmp_path / "base" / "b.yaml").write_text(START + "data: {train: [rows.jsonl, {path: some/hub_id}]}\n")
    recipe = loaded("extends: base/b.yaml\n", tmp_path)
    assert [source.path for source in recipe.data.train] == [str(tmp_path / "base" / "rows.jsonl"), "some/hub_id"]


def test_extends_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("seed: 1\nextends: r.yaml\n")
    assert refusal("extends: b.yaml\n", tmp_path) == [
        "b.yaml:2: extends: goes round in a circle: r.yaml -> b.yaml -> r.yaml"
    ]


def test_extends_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(START)
    (problem,) = refusal("seed: 1\nextends: bse.yaml\n", tmp_path)
    assert problem == "r.yaml:2: extends: bse.yaml: there is no such file; did you mean base.yaml?"
    assert refusal("extends: 3\n", tmp_path) == ["r.yaml:1: extends: expected the path of another recipe, got 3"]


# ---------------------------------------------------------------------- --set
def test_set_reaches_any_field(tmp_path: Path) -> None:
    text = START + "data: {train: [{path: x, weight: 1.0}, {path: y, weight: 1.0}]}\n"
    sets = ("training.learning_rate=2e-4", "data.train.1.weight=0.25", "adapter.r=4", "data.loss_on=all", "seed=7")
    recipe = loaded(text, tmp_path, (*sets, "data.train.0.columns={text: body}", "model.revision="))
    assert (recipe.training.learning_rate, recipe.adapter.r, recipe.seed) == (2e-4, 4, 7)
    assert [source.weight for source in recipe.data.train] == [1.0, 0.25]
    assert recipe.data.train[0].columns == {"text": "body"}
    assert recipe.model.revision is None


def test_problems_with_set_values_say_so(tmp_path: Path) -> None:
    sets = ("training.learning_rate=abc", "adapter.r=0", "training.learning_rat=1")
    assert sorted(refusal(START, tmp_path, sets)) == [
        "--set adapter.r: must be at least 1, got 0",
        "--set training.learning_rat: unknown field; did you mean learning_rate?",
        "--set training.learning_rate: expected a number, got 'abc'",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed", "--set: expected section.field=value, got 'seed'"),
        ("=3", "--set: expected section.field=value, got '=3'"),
        ("data.train.2.weight=1", "--set data.train.2.weight: data.train has only 2 items, counted from 0"),
        (
            "data.train.weight=1",
            "--set data.train.weight: data.train is a list (2 items, counted from 0): say which one",
        ),
        ("seed.x=1", "--set seed.x: seed is 3, which has no fields"),
        ("data=[", "--set data: the value is not valid YAML"),
    ],
)
def test_a_set_that_cannot_be_done(change: str, expected: str, tmp_path: Path) -> None:
    (problem,) = refusal(START + "seed: 3\ndata: {train: [x, y]}\n", tmp_path, (change,))
    assert problem.startswith(expected)


def test_a_set_path_is_what_the_shell_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rows.jsonl").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    recipe = loaded(START + "data: {train: x}\n", tmp_path, ("data.train=rows.jsonl", "model.model_name_or_path=a/b"))
    assert recipe.data.train[0].path == str(tmp_path / "here" / "rows.jsonl")
    assert recipe.model.model_name_or_path == "a/b"
