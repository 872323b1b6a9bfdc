"""Every bad row of a recipe's local data is found before anything heavy is imported, at its file and line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from alignkit.examples import precheck
from alignkit.recipe import Recipe, load

SFT = ("language_modeling", "prompt_completion")
GOOD = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})


def recipe(folder: Path, data: str, more: str = "") -> Recipe:
    text = f"method: sft\noutput_dir: out\nmodel: {{model_name_or_path: x/y}}\ndata:\n{data}\n{more}"
    (folder / "r.yaml").write_text(text)
    return load(folder / "r.yaml", {"sft": Recipe})


def found(folder: Path, data: str, more: str = "", shapes: tuple[str, ...] = SFT) -> list[str]:
    texts = [str(problem) for problem in precheck(recipe(folder, data, more), shapes)]
    assert not any("\n" in text for text in texts)
    return [text.replace(f"{folder}/", "") for text in texts]


def test_good_data_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n" * 3)
    assert found(tmp_path, "  train: [a.jsonl, {generate: addition}]\n  eval: {path: a.jsonl}") == []


def test_hub_ids_are_left_to_the_run(tmp_path: Path) -> None:
    assert found(tmp_path, "  train: {path: openai/gsm8k, name: main, split: train}") == []


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{path: b.jsonl}", "r.yaml:5: data.train.path: no file or folder b.jsonl; did you mean a.jsonl?"),
        ("{path: 'x*.jsonl'}", "r.yaml:5: data.train.path: x*.jsonl: nothing matches"),
        (
            "{path: a.jsonl, columns: {messages: mesages}}",
            "r.yaml:5: data.train.columns.messages: no column mesages; columns found: messages; did you mean messages?",
        ),
        ("{path: a.jsonl, layout: message}", "r.yaml:5: data.train.layout: no layout message; known here: messages,"),
        ("{generate: aditon}", "r.yaml:5: data.train.generate: no generator aditon"),
        ("{generate: addition, options: {digit: 2}}", "r.yaml:5: data.train.options.digit: addition takes"),
        ("{path: odd.jsonl}", "r.yaml:5: data.train.path: columns body of odd.jsonl fit no shape that this takes"),
    ],
)
def test_what_the_recipe_has_wrong_is_placed_in_the_recipe(tmp_path: Path, source: str, wanted: str) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "odd.jsonl").write_text('{"body": "x"}')
    (problem,) = found(tmp_path, f"  train: {source}")
    assert problem.startswith(wanted), problem


def test_bad_rows_are_all_named_with_their_lines(tmp_path: Path) -> None:
    bad = [
        GOOD,
        '{"messages": [{"role": "usr", "content": "hi"}]}',
        '{"messages": ',
        '{"messages": "hi"}',
        '{"messages": []}',
        GOOD,
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(bad))
    problems = found(tmp_path, "  train: a.jsonl")
    assert [problem.split(": ")[0] for problem in problems] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]


def test_many_bad_rows_are_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD + '\n{"messages": 3}' * 500)
    problems = found(tmp_path, "  train: a.jsonl")
    assert len(problems) == 11 and problems[-1].endswith("only the first problems are shown")


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "completion": ""}\n' * 4 + '{"prompt": "", "completion": "c"}\n')
    (problem,) = found(tmp_path, "  train: a.jsonl")
    assert problem == "a.jsonl: no example is left: all are dropped (4 empty answer, 1 empty prompt)"


def test_empty_files_and_evaluation_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text"}')
    more = "evaluation: [{name: e, task: perplexity, data: broken.jsonl}]"
    problems = found(tmp_path, "  train: a.jsonl\n  eval: none.jsonl", more)
    assert problems[0] == "none.jsonl: the file is empty"
    assert problems[1].startswith("broken.jsonl:1: not valid JSON")


def test_one_bad_file_does_not_hide_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1]")
    problems = found(tmp_path, "  train:\n    - a.jsonl\n    - path: c.jsonl")
    assert problems[0].startswith("a.jsonl:1: each line must be a JSON object")
    assert problems[1].startswith("r.yaml:7: data.train.1.path: no file or folder c.jsonl")


def test_a_budget_that_ends_within_a_cell_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\n" + 'p,"a\nb\nc"\n' * 1000)
    table = recipe(tmp_path, "  train: a.csv")
    assert [precheck(table, SFT, byte_budget=budget) for budget in range(200, 230)] == [[]] * 30


def test_small_data_are_checked_at_once_and_large_data_within_the_budget(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{GOOD}\n" * 5000)
    small = recipe(tmp_path, "  train: a.jsonl")
    start = time.perf_counter()
    assert precheck(small, SFT) == []
    assert time.perf_counter() - start < 2.0
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("broken\n")
    assert precheck(small, SFT, byte_budget=10_000) == []  # beyond what was read; the run itself finds it
    assert len(precheck(small, SFT)) == 1
