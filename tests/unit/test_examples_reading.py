"""Files of every kind to rows, and one clear error for each way in which they can be broken."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.examples import Row, iter_rows, local_files
from alignkit.recipe.sections import Source

BOM = b"\xef\xbb\xbf"


def rows(base: Path, path: str = "a.jsonl", **fields: object) -> list[Row]:
    return list(iter_rows(Source(path=path, **fields), base))


def refused(base: Path, path: str = "a.jsonl", **fields: object) -> str:
    with pytest.raises(UserError) as caught:
        rows(base, path, **fields)
    return str(caught.value)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "torch", "transformers", "datasets", "pyarrow"
    code = f"import sys, alignkit.examples; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ formats


def test_jsonl_keeps_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        BOM + b'{"text": "one"}\r\n\r\n  \n{"text": "two", "n": NaN}\n{"text": 12345678901234567890123}'
    )
    found = rows(tmp_path)
    assert [(row.line, row.number) for row in found] == [(1, 1), (4, 2), (5, 3)]
    assert found[0].data == {"text": "one"} and found[2].data == {"text": 12345678901234567890123}
    assert found[1].id == "a.jsonl:4"


def test_json_may_be_a_list_an_object_around_it_or_lines(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[\n {"text": "]"},\n {"text":\n "two"}\n, {"text": "three"} ]\n')
    (tmp_path / "data.json").write_text('{"version": "1", "data": [{"text": "one"}, {"text": "two"}]}')
    (tmp_path / "lines.json").write_text('{"text": "one\u2028still one"}\n{"text": "two"}\n')
    (tmp_path / "one.json").write_text('{\n "text": "one"\n}\n')
    assert [(row.line, row.data["text"]) for row in rows(tmp_path, "list.json")] == [(2, "]"), (3, "two"), (5, "three")]
    assert [(row.line, row.id) for row in rows(tmp_path, "data.json")] == [(None, "data.json:1"), (None, "data.json:2")]
    assert [row.line for row in rows(tmp_path, "lines.json")] == [1, 2]
    assert [row.data for row in rows(tmp_path, "one.json")] == [{"text": "one"}]


def test_rows_on_one_line_have_ids_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "dumped.json").write_text('[{"text": "one"}, {"text": "two"}, {"text": "three"},\n{"text": "four"}]')
    found = rows(tmp_path, "dumped.json")
    assert [row.id for row in found] == ["dumped.json:1", "dumped.json:1:2", "dumped.json:1:3", "dumped.json:2"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_of_a_csv_file_is_seen_in_its_header(tmp_path: Path, separator: str) -> None:
    (tmp_path / "a.csv").write_text(f"text{separator}label\none, two{separator}ham\n", encoding="utf-8-sig")
    assert [row.data for row in rows(tmp_path, "a.csv")] == [{"text": "one, two", "label": "ham"}]


def test_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(',prompt,completion\n0,"two\nlines, and a ""quote""",x\n\n1,b,\n')
    (tmp_path / "a.tsv").write_text("text\tlabel\nit's\tham\n")
    (tmp_path / "raw.tsv").write_text('text\tlabel\n"half a quote\tham\n')
    first, second = rows(tmp_path, "a.csv")
    assert first.data == {"prompt": 'two\nlines, and a "quote"', "completion": "x"} and first.line == 2
    assert second.data == {"prompt": "b", "completion": ""} and second.line == 5
    assert rows(tmp_path, "a.tsv")[0].data == {"text": "it's", "label": "ham"}
    assert rows(tmp_path, "raw.tsv", options={"quoting": "none"})[0].data["text"] == '"half a quote'
    assert "quoting: none" in refused(tmp_path, "raw.tsv")


def test_text_by_line_paragraph_or_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \nthree\n\n\nfour\n")
    assert [(row.line, row.data["text"]) for row in rows(tmp_path, "a.txt")] == [
        (1, "one"), (3, " two "), (4, "three"), (7, "four")]  # fmt: skip
    paragraphs = rows(tmp_path, "a.txt", options={"sample_by": "paragraph"})
    assert [(row.line, row.data["text"]) for row in paragraphs] == [(1, "one"), (3, " two \nthree"), (7, "four")]
    assert len(rows(tmp_path, "a.txt", options={"sample_by": "document"})) == 1
    assert "did you mean paragraph?" in refused(tmp_path, "a.txt", options={"sample_by": "paragraf"})
    assert "did you mean sample_by?" in refused(tmp_path, "a.txt", options={"sampleby": "line"})


def test_parquet_and_saved_datasets(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"messages": [[{"role": "user", "content": "hi"}]] * 3})
    data.to_parquet(str(tmp_path / "a.parquet"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "saved"))
    assert [(row.number, row.line) for row in rows(tmp_path, "a.parquet")] == [(1, None), (2, None), (3, None)]
    assert rows(tmp_path, "saved", split="test")[0].data == {"messages": [{"role": "user", "content": "hi"}]}
    assert "say which one" in refused(tmp_path, "saved")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert "bad.parquet: cannot read the file (not a parquet file" in refused(tmp_path, "bad.parquet")


def test_gz(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n' * 9999)[:-20])
    (tmp_path / "no.jsonl.gz").write_bytes(b'{"text": "one"}\n')
    assert rows(tmp_path, "a.jsonl.gz")[0].data == {"text": "one"}
    assert "cut.jsonl.gz: cannot read the file" in refused(tmp_path, "cut.jsonl.gz")
    assert "cannot read the file (Not a gzipped file" in refused(tmp_path, "no.jsonl.gz")


def test_max_rows_counts_over_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n' * 3)
    assert [row.id for row in rows(tmp_path, "*.jsonl", max_rows=4)] == [
        "a.jsonl:1",
        "a.jsonl:2",
        "a.jsonl:3",
        "b.jsonl:1",
    ]


def test_files_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "data/en/a.jsonl", "data/de/a.jsonl")
    assert [row.id for row in rows(tmp_path, "data")] == ["de/a.jsonl:1", "en/a.jsonl:1"]
    assert [row.id for row in rows(tmp_path, str(tmp_path / "data/*/*"))] == ["de/a.jsonl:1", "en/a.jsonl:1"]


# ------------------------------------------------------------------ which files


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "x"}\n')


def names(base: Path, path: str, **fields: object) -> list[str]:
    files = local_files(Source(path=path, **fields), base)
    assert files is not None
    return [str(file.relative_to(base)) for file in files]


def test_hub_ids_and_local_paths_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "data/train/a.jsonl")
    for hub in ("gsm8k", "openai/gsm8k", "HuggingFaceH4/ultrachat_200k", "hf://datasets/x/y.parquet", "a-b.c/d_e"):
        assert local_files(Source(path=hub), tmp_path) is None
    assert names(tmp_path, "data/train") == ["data/train/a.jsonl"]
    for missing in ("./gsm8k", "/nowhere/x", "~/nowhere-at-all", "x.jsonl", "*.csv", "a/b/c", "x.json.gz"):
        with pytest.raises(UserError):
            local_files(Source(path=missing), tmp_path)
    assert "did you mean train?" in refused(tmp_path, "data/trian")  # a folder, not an organisation on the Hub


def test_a_missing_file_gets_its_likely_name(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl")
    assert refused(tmp_path, "trian.jsonl") == "path: no file or folder trian.jsonl; did you mean train.jsonl?"
    assert "there is no folder" in refused(tmp_path, "deep/train.jsonl")
    assert "unpack it first" in refused(tmp_path, "./train.jsonl.zst")


def test_globs(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl", "c.csv", "deep/d.jsonl", "e.bin")
    assert names(tmp_path, "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path, "**/*.jsonl") == ["a.jsonl", "b.jsonl", "deep/d.jsonl"]
    write(tmp_path, "[odd]/f[1].jsonl")
    assert names(tmp_path / "[odd]", "*.jsonl") == ["f[1].jsonl"] == names(tmp_path / "[odd]", "f[1].jsonl")
    assert names(tmp_path, str(tmp_path / "d*" / "*.jsonl")) == ["deep/d.jsonl"]
    assert "nothing matches" in refused(tmp_path, "x*.jsonl")
    assert "none has a known extension" in refused(tmp_path, "*.bin")
    assert "mixes formats: c.csv (csv), a.jsonl (jsonl)" in refused(tmp_path, "*")


def test_folders(tmp_path: Path) -> None:
    write(tmp_path, "one/b.jsonl", "one/a.jsonl", "one/README.md", "one/.cache/x.jsonl", "one/dataset_info.json")
    write(tmp_path, "mixed/a.jsonl", "mixed/b.csv", "empty/readme.rst", "notes/a.md")
    assert names(tmp_path, "one") == ["one/a.jsonl", "one/b.jsonl"]
    assert names(tmp_path, "notes") == ["notes/a.md"]
    assert "mixes formats" in refused(tmp_path, "mixed")
    assert "no data files" in refused(tmp_path, "empty")


def test_splits_of_a_folder(tmp_path: Path) -> None:
    write(
        tmp_path, "f/train.jsonl", "f/test.jsonl", "f/dev_1.jsonl", "g/train_sft-00000-of-00001.jsonl", "h/test/a.jsonl"
    )
    write(tmp_path, "h/train/a.jsonl", "plain/a.jsonl")
    assert names(tmp_path, "f", split="train") == ["f/train.jsonl"]
    assert names(tmp_path, "f", split="validation") == ["f/dev_1.jsonl"]
    assert names(tmp_path, "g", split="train_sft") == ["g/train_sft-00000-of-00001.jsonl"]
    assert names(tmp_path, "h", split="test") == ["h/test/a.jsonl"]
    assert "has splits test, train, validation; say which one" in refused(tmp_path, "f")
    assert "did you mean train?" in refused(tmp_path, "f", split="trian")
    assert "which has none that its file names tell" in refused(tmp_path, "plain", split="train")
    assert "max_rows" in refused(tmp_path, "f", split="train[:10]")
    assert names(tmp_path, "f/train.jsonl", split="train") == ["f/train.jsonl"]
    assert "one file" in refused(tmp_path, "f/train.jsonl", split="test")


def test_data_files(tmp_path: Path) -> None:
    write(tmp_path, "f/a.jsonl", "f/b.jsonl")
    assert names(tmp_path, "f", data_files="b*.jsonl") == ["f/b.jsonl"]
    assert names(tmp_path, "f", data_files={"train": ["a.jsonl"], "test": "b.jsonl"}, split="test") == ["f/b.jsonl"]
    assert names(tmp_path, "json", data_files="f/a.jsonl") == ["f/a.jsonl"]
    assert "did you mean a.jsonl?" in refused(tmp_path, "f", data_files="aa.jsonl")


# ------------------------------------------------------------------ broken files


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.json", b"[]", "a.json: the file is empty"),
        ("a.csv", b"text\n", "a.csv: the file is empty"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "x"\n{"text": "x"}\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', "a.jsonl:2: each line must be a JSON object, this one is a list"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "a.jsonl:2: not valid UTF-8 (byte 0xff at position 11"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "a.jsonl: the file is UTF-16"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "a.jsonl:1: a broken character"),
        ("a.jsonl", b'{"a":' * 100_000, "a.jsonl:1: not valid JSON (nested too deeply)"),
        ("a.json", b'[{"text": "x"},\n{"text": }]', "a.json:2: not valid JSON"),
        ("a.json", b'[{"text": "x"}\n{"text": "y"}]', "a.json:2: not valid JSON (',' or ']' expected)"),
        ("a.json", b'[{"text": "x"},\n', "a.json:2: not valid JSON"),
        ("a.json", b'[{"text": "x"},\n 3]', "a.json:2: each element of the list must be an object"),
        ("a.json", b'{"text": ["a", "b"], "label": [1, 2]}', "a.json:1: must hold a list of objects"),
        ("a.json", b'{"text": "x"}\n{"text"}\n', "a.json:2: not valid JSON"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 fields, but the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "a.csv:1: column a stands twice in the header"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv:2: not valid csv (unexpected end of data)"),
        ("a.txt", b"fine\n\xe9t\xe9\n", "a.txt:2: not valid UTF-8"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path, name)
    assert message.startswith(str(tmp_path / wanted)), message
    assert "\n" not in message


def test_a_broken_line_far_down_is_found(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * 50})] * 20_000
    lines[12_344] = lines[12_344][:-4]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert "a.jsonl:12345: not valid JSON" in refused(tmp_path)
