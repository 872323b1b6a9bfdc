"""Sources to data sets: splits, weights, packing, counts, the cache, streams, and what bad data is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.test_masking import CHATML, tokenizer
from transformers import PreTrainedTokenizerFast

import alignkit
from alignkit.data import Prepared, prepare_language_modeling, workers
from alignkit.data.prepare import Settings
from alignkit.data.render import Renderer
from alignkit.data.sources import Opened, _load, open_sources
from alignkit.data.streaming import Stream
from alignkit.data.workers import render_all
from alignkit.errors import UserError
from alignkit.examples import SHAPES, Example, Row
from alignkit.recipe import Recipe
from alignkit.recipe.sections import Source

SFT_SHAPES = ("prompt_completion", "language_modeling")
assert set(SFT_SHAPES) < set(SHAPES)

Prepare = Callable[..., Prepared]


@pytest.fixture
def made() -> PreTrainedTokenizerFast:
    return tokenizer(CHATML)


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: PreTrainedTokenizerFast) -> Prepare:
    """`prepare(data=…, training=…)`; what it says is in `prepare.said`."""
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []

    def run(data: dict[str, Any], with_tokenizer: PreTrainedTokenizerFast = made, **training: Any) -> Prepared:
        recipe = {
            "method": "sft",
            "output_dir": "runs/x",
            "model": {"model_name_or_path": "org/model"},
            "data": data,
            "training": {"max_length": 64, **training},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        loaded = alignkit.load_recipe(path)
        said.clear()
        return prepare_language_modeling(loaded, with_tokenizer, shapes=SFT_SHAPES, say=said.append)

    run.said = said  # type: ignore[attr-defined]
    return run


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def pairs(count: int, word: str = "hi", start: int = 0) -> list[dict[str, str]]:
    return [
        {"prompt": f"{word} {' '.join(str(number))} ", "completion": "yes"} for number in range(start, start + count)
    ]


def test_rows_counts_and_columns(tmp_path: Path, prepare: Prepare, made: PreTrainedTokenizerFast) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    name = write(
        tmp_path / "a.jsonl", [chat, chat, {"messages": [chat["messages"][0], {**chat["messages"][1], "content": ""}]}]
    )
    found = prepare({"train": name})
    assert found.train.column_names == ["input_ids", "labels", "length", "example_id"]
    assert found.train["example_id"][:] == ["a.jsonl:1", "a.jsonl:2"]
    row = found.train[0]
    assert made.decode(row["input_ids"]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    assert made.decode([label for label in row["labels"] if label != -100]) == "yes<|im_end|>"
    counts = found.counts["train"]
    assert (counts["rows"], counts["examples"], counts["dropped"]) == (3, 2, {"empty answer": 1})
    assert (counts["tokens"], counts["supervised_tokens"], counts["truncated"], counts["longest"]) == (24, 4, 0, 12)
    assert counts["length_histogram"] == [[16, 2]]
    assert counts["duplicates"] == 1 and counts["packed_rows"] is None
    assert counts["sources"] == [
        {"path": name, "rows": 3, "examples": 2, "layout": "messages", "shape": "language_modeling", "tokens": 24,
         "with_system": 0, "first_dropped": {"empty answer": "a.jsonl:3"}}
    ]  # fmt: skip
    assert found.eval is None and found.counts["eval"] is None
    assert found.template.how == "prefix" and found.template.stop_token == "<|im_end|>"
    assert not found.cached


def test_the_second_start_reads_the_cache_and_a_change_does_not(tmp_path: Path, prepare: Prepare) -> None:
    name = write(tmp_path / "a.jsonl", pairs(9))
    first = prepare({"train": name, "eval_fraction": 0.3})
    again = prepare({"train": name, "eval_fraction": 0.3})
    assert again.cached and again.fingerprint == first.fingerprint and again.counts == first.counts
    assert again.train[:] == first.train[:] and again.eval[:] == first.eval[:] and again.template == first.template
    assert again.train.cache_files  # mapped from disk
    changed = [
        prepare({"train": name, "eval_fraction": 0.3}, max_length=32),
        prepare({"train": name, "eval_fraction": 0.3, "loss_on": "all"}),
        prepare({"train": name, "eval_fraction": 0.3}, tokenizer(CHATML + " ")),
        prepare({"train": name, "eval_fraction": 0.3}, packing=True),
        prepare({"train": {"path": name, "max_rows": 8}, "eval_fraction": 0.3}),
    ]
    write(tmp_path / "a.jsonl", pairs(9, "so"))
    changed.append(prepare({"train": name, "eval_fraction": 0.3}))
    assert not any(one.cached for one in changed)
    assert len({first.fingerprint, *(one.fingerprint for one in changed)}) == 7


def test_a_damaged_or_unwritable_cache_is_no_obstacle(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(tmp_path / "a.jsonl", pairs(5))
    first = prepare({"train": name})
    folder = tmp_path / "cache" / "prepared" / first.fingerprint
    expected = first.train[:]
    with (folder / "train.arrow").open("r+b") as file:
        file.truncate(100)
    again = prepare({"train": name})
    assert not again.cached and again.train[:] == expected
    (folder / "meta.json").write_text("{")
    assert prepare({"train": name}).train[:] == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half built is left
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "file"))
    elsewhere = prepare({"train": name})
    assert elsewhere.train[:] == expected and any("can't be written" in line for line in prepare.said)  # type: ignore[attr-defined]


def test_a_fraction_is_held_out_and_equal_rows_stay_together(tmp_path: Path, prepare: Prepare) -> None:
    name = write(tmp_path / "a.jsonl", pairs(20) * 3)
    found = prepare({"train": name, "eval_fraction": 0.1})
    train, held = ({tuple(ids) for ids in split["input_ids"][:]} for split in (found.train, found.eval))
    assert not train & held and len(train | held) == 20
    assert len(found.train) + len(found.eval) == 60 and len(found.eval) == 6
    assert found.counts["eval"]["examples"] == 6 and found.counts["train"]["examples"] == 54
    assert prepare({"train": {"path": name, "max_rows": 2}, "eval_fraction": 0.01}).counts["eval"]["examples"] == 1
    name = write(tmp_path / "b.jsonl", pairs(1) * 5)
    with pytest.raises(UserError, match=r"data\.eval_fraction: 5 usable rows can't be split .*all alike"):
        prepare({"train": name, "eval_fraction": 0.5})


def test_eval_sources(tmp_path: Path, prepare: Prepare) -> None:
    train, held = write(tmp_path / "a.jsonl", pairs(5)), write(tmp_path / "b.jsonl", pairs(4, start=3))
    found = prepare({"train": train, "eval": held})
    assert len(found.train) == 5 and len(found.eval) == 4
    assert found.counts["eval"]["also_in_train"] == 2


def test_weights_mix_and_their_absence_joins(tmp_path: Path, prepare: Prepare) -> None:
    a, b = write(tmp_path / "a.jsonl", pairs(40)), write(tmp_path / "b.jsonl", pairs(400, "so"))
    joined = prepare({"train": [a, b]})
    assert len(joined.train) == 440
    sources = [{"path": a, "weight": 3.0}, {"path": b, "weight": 1.0}]
    mixed = prepare({"train": sources})
    from_a = sum(name.startswith("a") for name in mixed.train["example_id"][:])
    assert from_a == 40 and 5 <= len(mixed.train) - 40 <= 25  # ends when the first is used up, at about 3 : 1
    longer = prepare({"train": sources, "stopping_strategy": "all_exhausted"})
    assert len({*longer.train["example_id"][:]}) == 440 and len(longer.train) > 1200
    assert longer.counts["train"]["duplicates"] == 0  # drawing a row again does not make it one


def test_packed_rows(tmp_path: Path, prepare: Prepare, made: PreTrainedTokenizerFast) -> None:
    name = write(tmp_path / "a.jsonl", pairs(50))
    single = {row["example_id"]: row for row in prepare({"train": name}).train}
    found = prepare({"train": name, "eval_fraction": 0.2}, packing=True, max_length=40)
    counts = found.counts["train"]
    assert counts["packed_rows"] == len(found.train) and counts["examples"] == 40
    assert counts["fill"] == pytest.approx(counts["tokens"] / (40 * len(found.train))) and counts["fill"] > 0.8
    for row in [*found.train, *found.eval]:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) == row["length"] <= 40
        at = 0
        for length, name in zip(row["seq_lengths"], row["example_id"], strict=True):
            assert row["input_ids"][at : at + length] == single[name]["input_ids"]
            assert row["labels"][at : at + length] == single[name]["labels"]
            assert row["labels"][at] == -100
            at += length
    assert (
        "seq_lengths"
        not in prepare({"train": "a.jsonl", "eval": "a.jsonl"}, packing=True, eval_packing=False).eval.column_names
    )
    wrapped = prepare({"train": "a.jsonl"}, packing=True, packing_strategy="wrapped", max_length=16)
    assert "seq_lengths" not in wrapped.train.column_names
    assert set(wrapped.train["length"][:-1]) == {16}
    assert sum(wrapped.train["length"][:]) == sum(row["length"] for row in single.values())
    split = prepare({"train": "a.jsonl"}, packing=True, packing_strategy="bfd_split", max_length=4)
    assert sum(split.train["length"][:]) == sum(row["length"] for row in single.values())


def test_nothing_left_names_the_fix(tmp_path: Path, prepare: Prepare) -> None:
    name = write(tmp_path / "a.jsonl", [{"prompt": "hi " * 30, "completion": "yes"}] * 25)
    with pytest.raises(UserError) as error:
        prepare({"train": name}, max_length=16)
    assert str(error.value).endswith(
        "training.max_length: every one of 25 examples has its whole answer beyond the first 16 tokens; "
        "raise training.max_length"
    )
    assert "recipe.yaml:" in str(error.value)
    name = write(
        tmp_path / "b.jsonl", [{"prompt": "hi", "completion": ""}] * 2 + [{"prompt": "hi " * 30, "completion": "so"}]
    )
    with pytest.raises(UserError, match="no example is left: all 3 are dropped"):
        prepare({"train": name}, max_length=16)


def test_partly_dropped_by_length_is_counted(tmp_path: Path, prepare: Prepare) -> None:
    name = write(tmp_path / "a.jsonl", [{"prompt": "hi " * 30, "completion": "yes"}, *pairs(3)])
    counts = prepare({"train": name}, max_length=16).counts["train"]
    assert counts["examples"] == 3 and counts["dropped"] == {"no supervised token within max_length 16": 1}


def test_missing_templates_and_masks_that_do_not_fit(tmp_path: Path, prepare: Prepare) -> None:
    chats = write(
        tmp_path / "a.jsonl",
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "so"}]}],
    )
    with pytest.raises(UserError, match=r"model\.chat_template_path: the tokenizer has no chat template"):
        prepare({"train": chats}, tokenizer(None))
    (tmp_path / "b.txt").write_text("hi so\nso hi\n")
    with pytest.raises(UserError, match=r"data\.loss_on: assistant: .*plain text"):
        prepare({"train": "b.txt", "loss_on": "assistant"})
    asked = write(tmp_path / "c.jsonl", [{"question": "why", "answer": "so"}])
    found = prepare({"train": asked}, tokenizer(None))
    assert found.template.how == "none" and found.template.stop_token == "</s>"
    assert tokenizer(None).decode(found.train[0]["input_ids"]) == "<s>why\n\nso</s>"


def test_hub_ids_out_of_reach_are_one_line(prepare: Prepare) -> None:
    with pytest.raises(UserError) as error:
        prepare({"train": [{"path": "nobody/nothing"}, {"path": "nobody/nowhere", "split": "test"}]})
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and "data.train.0.path: nobody/nothing" in lines[0] and "data.train.1.path" in lines[1]


def test_hub_data_sets_are_read_by_datasets(tmp_path: Path, prepare: Prepare) -> None:
    """A folder stands for the Hub: `datasets` loads both the same way."""
    folder = tmp_path / "hub"
    folder.mkdir()
    write(folder / "train.jsonl", pairs(5))
    write(folder / "test.jsonl", pairs(3, "so"))
    found = _load(Source(path=str(folder)), streaming=False)
    recipe = Recipe.model_construct()
    opened = Opened(recipe, "data.train.0", Source(path="org/name", max_rows=4), None, found)
    layout, examples = opened.read(SFT_SHAPES)
    assert layout.name == "prompt_completion" and opened.total == 4
    assert [example.id for example in examples] == ["name:1", "name:2", "name:3", "name:4"]
    stream = _load(Source(path=str(folder), split="test"), streaming=True)
    assert [row.data for row in Opened(recipe, "data.train.0", Source(path="org/name"), None, stream)._hub_rows()] == (
        pairs(3, "so")
    )
    with pytest.raises(UserError, match=r"^split: .*nope"):
        _load(Source(path=str(folder), split="nope"), streaming=False)


def test_a_stream_repeats_itself_exactly(tmp_path: Path, prepare: Prepare) -> None:
    a, b = write(tmp_path / "a.jsonl", pairs(30)), write(tmp_path / "b.jsonl", pairs(30, "so"))
    data = {"train": [{"path": a, "weight": 1.0}, {"path": b, "weight": 1.0}], "eval": b, "streaming": True}
    found = prepare(data, max_steps=10)
    rows = list(islice(found.train, 200))
    assert len(rows) == 200 and len({row["example_id"] for row in rows}) > 30
    assert rows == list(islice(found.train, 200)) == list(islice(prepare(data, max_steps=10).train, 200))
    assert found.counts["train"]["examples"] is None and len(found.eval) == 30
    plain = prepare({"train": a, "streaming": True}, max_steps=10)
    files = prepare({"train": a})
    assert list(islice(plain.train, 30)) == list(files.train)
    assert next(islice(plain.train, 30, None)) == files.train[0]  # after the end, from the start
    write(tmp_path / "a.jsonl", [{"prompt": "hi " * 99, "completion": "so"}])
    with pytest.raises(UserError, match="no example that can be trained on"):
        prepare({"train": a, "streaming": True}, max_steps=10)


def test_a_stream_packs_in_windows(tmp_path: Path, prepare: Prepare, made: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "a.jsonl", pairs(30))
    prepare({"train": "a.jsonl", "streaming": True}, max_steps=10)
    recipe = alignkit.load_recipe(tmp_path / "recipe.yaml")
    settings = replace(Settings.of(recipe), packing=True)
    stream = Stream(recipe, settings, open_sources(recipe, "train"), SFT_SHAPES, Renderer(made))
    rows = list(stream())
    assert sorted(name for row in rows for name in row["example_id"]) == sorted(f"a.jsonl:{n}" for n in range(1, 31))
    assert all(sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= 64 for row in rows)


def test_worker_processes_give_the_same(made: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK", 20)
    rows = [
        {"messages": [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "yes " * n}]}
        for n in range(100)
    ]
    examples = [Example(f"{n}", row, Row("r", n, n, row)) for n, row in enumerate(rows)]
    here = [item for chunk in render_all(Renderer(made, None, 64), examples) for item in chunk]
    there = [item for chunk in render_all(Renderer(made, None, 64), examples, 2) for item in chunk]
    assert [item.id for item in here] == [item.id for item in there]
    for one, other in zip(here, there, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist() and one.labels.tolist() == other.labels.tolist()
