"""`alignkit score`: reading files, refusing bad ones, and agreeing with sacrebleu's own command."""

import gzip
import io
import json
import subprocess
import sys

import pytest

from alignkit.errors import UserError
from alignkit.score import command, score

SYSTEM = "The dog bit the man.\nIt wasn't surprising.\nThe man had just bitten him.\n"
FIRST = "The dog bit the man.\nIt was not unexpected.\nThe man bit him first.\n"
SECOND = "The dog had bit the man.\nNo one was surprised.\nThe man had bitten the dog.\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sys.txt").write_text(SYSTEM)
    (tmp_path / "ref1.txt").write_text(FIRST)
    (tmp_path / "ref2.txt").write_text(SECOND)
    return tmp_path


def problem(*args, **options) -> str:
    with pytest.raises(UserError) as raised:
        score(*args, **options)
    text = str(raised.value)
    assert all(len(str(one).splitlines()) == 1 for one in raised.value.problems)
    return text


def test_bleu_is_what_sacrebleus_command_prints(files):
    theirs = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "ref1.txt", "ref2.txt", "-i", "sys.txt", "-m", "bleu", "chrf", "ter"],
        capture_output=True,
        check=True,
        text=True,
    )
    rows = score(["bleu", "chrf", "ter"], "sys.txt", ["ref1.txt", "ref2.txt"])
    for ours, printed in zip(rows, json.loads(theirs.stdout), strict=True):
        assert round(ours["value"], 1) == printed["score"]
        assert ours["signature"] == printed["signature"]


def test_a_row_holds_value_interval_count_and_signature(files):
    (row,) = score(["bleu"], "sys.txt", ["ref1.txt", "ref2.txt"])
    assert list(row) == ["metric", "value", "ci95", "n", "signature"]
    assert row["n"] == 3
    assert round(row["value"], 2) == 48.53
    assert row["ci95"][0] <= row["value"] <= row["ci95"][1]
    assert score(["bleu"], "sys.txt", ["ref1.txt", "ref2.txt"])[0] == row


def test_the_order_is_the_one_asked_for(files):
    rows = score(["rougeL", "distinct2", "bleu", "rouge1"], "sys.txt", ["ref1.txt"])
    assert [row["metric"] for row in rows] == ["rougeL", "distinct2", "bleu", "rouge1"]


def test_counts_that_differ_are_named(files):
    (files / "two.txt").write_text("a\nb\n")
    text = problem(["bleu"], "sys.txt", ["two.txt"])
    assert text.startswith("two.txt: 2 references but 3 predictions in sys.txt")


def test_empty_files_are_refused(files):
    (files / "empty.txt").write_text("")
    (files / "blank.txt").write_text("\n\n\n")
    assert "empty.txt: the reference file is empty" in problem(["bleu"], "sys.txt", ["empty.txt"])
    assert "blank.txt: the reference file is empty" in problem(["bleu"], "sys.txt", ["blank.txt"])
    assert "predictions file is empty" in problem(["distinct1"], "empty.txt")


def test_a_broken_encoding_is_named_by_file_and_line(files):
    (files / "bad.txt").write_bytes(b"fine\nno\xffpe\nfine\n")
    assert problem(["bleu"], "sys.txt", ["bad.txt"]).startswith("bad.txt:2: not UTF-8: byte 0xff at column 3")


def test_unknown_and_unfit_metrics(files):
    assert "did you mean 'bleu'" in problem(["blue"], "sys.txt", ["ref1.txt"])
    assert "alignkit eval with a perplexity task" in problem(["perplexity"], "sys.txt", ["ref1.txt"])
    assert "bleu needs --references" in problem(["bleu"], "sys.txt")
    assert "takes one file of references" in problem(["accuracy"], "sys.txt", ["ref1.txt", "ref2.txt"])
    assert "--stemmer: none of bleu takes it" in problem(["bleu"], "sys.txt", ["ref1.txt"], options={"stemmer": True})
    assert "no metric given" in problem([], "sys.txt", ["ref1.txt"])
    assert "cannot read it: No such file" in problem(["bleu"], "none.txt", ["ref1.txt"])


def test_options_reach_the_metrics_that_take_them(files):
    rows = score(["bleu", "rougeL"], "sys.txt", ["ref1.txt"], options={"tokenize": "char", "stemmer": True})
    assert "tok:char" in rows[0]["signature"]
    assert "stem:yes" in rows[1]["signature"]


def test_lines_end_at_newlines_only(files):
    (files / "odd.txt").write_bytes("a\u2028b\x0bc\r\nd e\r\n\r\n".encode())
    rows = score(["exact_match"], "odd.txt", ["odd.txt"])
    assert (rows[0]["n"], rows[0]["empty"]) == (3, 1)
    assert rows[0]["value"] == pytest.approx(2 / 3)
    (files / "bom.txt").write_bytes(b"\xef\xbb\xbfsame")
    (files / "plain.txt").write_bytes(b"same\n")
    assert score(["exact_match"], "bom.txt", ["plain.txt"])[0]["value"] == 1


def test_json_lines_columns_lists_and_nesting(files):
    rows = [
        {"out": "a b", "refs": ["x", "a b"], "meta": {"gold": "a b"}, "doc": "1"},
        {"out": None, "refs": ["c"], "meta": {"gold": "c"}, "doc": "1"},
        {"out": 7, "refs": "7", "meta": {"gold": 7}, "doc": "2"},
    ]
    (files / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with gzip.open(files / "d.jsonl.gz", "wt") as packed:
        packed.writelines(json.dumps(row) + "\n" for row in rows)
    for name in ("d.jsonl", "d.jsonl.gz"):
        (row,) = score(["exact_match"], f"{name}:out", [f"{name}:refs"])
        assert row["value"] == pytest.approx(2 / 3)
        assert row["empty"] == 1
    assert score(["exact_match"], "d.jsonl:out", ["d.jsonl:meta.gold"])[0]["value"] == pytest.approx(2 / 3)
    assert score(["rougeL"], "d.jsonl:out", ["d.jsonl:refs"], clusters="d.jsonl:doc")[0]["n"] == 3
    assert "one of out, refs" in problem(["bleu"], "d.jsonl", ["d.jsonl:refs"])
    assert "d.jsonl:1: no column 'ref'" in problem(["bleu"], "d.jsonl:out", ["d.jsonl:ref"])
    assert "did you mean 'refs'" in problem(["bleu"], "d.jsonl:out", ["d.jsonl:ref"])
    assert "item 1 is a list" in problem(["bleu"], "d.jsonl:refs", ["d.jsonl:out"])
    (files / "e.jsonl").write_text('{"out": "a", "r": "b"}\n{"out": "a", "r": null}\n')
    assert "item 2 has no reference" in problem(["bleu"], "e.jsonl:out", ["e.jsonl:r"])
    (files / "f.jsonl").write_text('{"out": "a"}\n{"out": \n')
    assert "f.jsonl:2: not JSON" in problem(["bleu"], "f.jsonl:out", ["f.jsonl:out"])


def test_labels_and_tags(files):
    (files / "said.txt").write_text("ham\nspam \nham\n")
    (files / "true.txt").write_text("ham\nspam\nspam\n")
    rows = score(["accuracy", "f1_macro"], "said.txt", ["true.txt"])
    assert [row["value"] for row in rows] == pytest.approx([2 / 3, 2 / 3])
    (files / "tags.txt").write_text("B-PER I-PER O\nO O\n")
    (files / "gold.jsonl").write_text('{"t": ["B-PER", "I-PER", "O"]}\n{"t": ["B-LOC", "O"]}\n')
    assert score(["entity_f1"], "tags.txt", ["gold.jsonl:t"])[0]["value"] == pytest.approx(2 / 3)


def test_stdin(files, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(SYSTEM.encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert round(score(["bleu"], "-", ["ref1.txt", "ref2.txt"])[0]["value"], 2) == 48.53
    assert "only one of the files" in problem(["bleu"], "-", ["-:out"])


def test_an_unknown_metric_is_the_options_fault(files):
    with pytest.raises(UserError, match=r"^--metric: unknown metric 'blue'; did you mean 'bleu'\?$"):
        score(["blue"], "sys.txt", ["ref1.txt"])


def test_the_command_prints_pure_json_or_a_table(files, capsys):
    command(["bleu"], "sys.txt", ["ref1.txt"], as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["metric"] == "bleu"
    (files / "gap.txt").write_text("The dog bit the man.\n\nx\n")
    command(["bleu", "rougeL"], "gap.txt", ["ref1.txt"])
    out = capsys.readouterr().out
    assert "rougeL" in out
    assert "1 empty prediction among 3" in out


def test_nothing_heavy_is_imported(files):
    code = (
        "import sys; from alignkit.score import score; import alignkit.compare;"
        "score(['bleu', 'rouge', 'exact_match'], 'sys.txt', ['ref1.txt'], options={'stemmer': True});"
        "bad = {'torch', 'transformers', 'datasets', 'evaluate', 'sklearn', 'scipy', 'nltk'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
