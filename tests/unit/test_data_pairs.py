"""Pairs to rows: masks, cuts, what is dropped and counted, transcripts without loss, and prompts on one side only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

import alignkit
from alignkit.data import Prepared, prepare_pairs
from alignkit.data.pairs import PairRenderer
from alignkit.data.rows import RenderedRow
from alignkit.errors import UserError
from alignkit.examples import Dropped, Example, examples_of
from alignkit.examples.messages import join_transcript
from alignkit.recipe.sections import Source

PREFERENCE = ("preference",)
CHARACTERS = Path(alignkit.__file__).parent / "assets" / "tokenizers" / "characters"
Pairs = Callable[..., Prepared]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """`pairs(rows, kind, **training)`: the rows prepared as a recipe's data."""
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    methods = {"whole": "reward", "split": "dpo", "unpaired": "kto"}

    def run(
        rows: list[Any] | Path, kind: str = "split", data: dict[str, Any] | None = None, **training: Any
    ) -> Prepared:
        if isinstance(rows, list):
            (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            rows = tmp_path / "pairs.jsonl"
        path = tmp_path / "recipe.yaml"
        recipe = {
            "method": methods[kind],
            "output_dir": "x",
            "model": {"model_name_or_path": "org/model"},
            "data": {"train": str(rows), **(data or {})},
            "training": {"max_length": 64, **training},
        }
        path.write_text(yaml.safe_dump(recipe))
        shapes = ("unpaired_preference", "preference") if kind == "unpaired" else PREFERENCE
        made = AutoTokenizer.from_pretrained(CHARACTERS)
        return prepare_pairs(alignkit.load_recipe(path), made, kind, shapes=shapes, say=lambda _: None)  # type: ignore[arg-type]

    return run


def example(chosen: Any, rejected: Any, prompt: Any = "p ", **more: Any) -> Example:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}
    (made,) = examples_of(Source(path="x/y"), Path(), PREFERENCE, [_row(row)])
    assert isinstance(made, Example), made
    return made


def _row(data: dict[str, Any]) -> Any:
    from alignkit.examples import Row

    return Row("a.jsonl", 1, 1, data)


def test_each_pair_without_a_difference_is_dropped_and_counted(pairs: Pairs) -> None:
    long = "one two three four five "
    rows = [
        {"prompt": "hi ", "chosen": "good", "rejected": "bad"},
        {"prompt": "hi ", "chosen": "same", "rejected": "same"},
        {"prompt": "hi ", "chosen": "same  words", "rejected": " same words\n"},
        {"prompt": "hi ", "chosen": "", "rejected": "bad"},
        {"prompt": "hi ", "chosen": "good", "rejected": "  "},
        {"prompt": "hi ", "chosen": long + "good", "rejected": long + "bad"},
        {"prompt": long, "chosen": "good", "rejected": "bad"},
    ]
    for kind in ("split", "whole"):
        counts = pairs(rows, kind, max_length=16).counts["train"]
        assert counts["examples"] == 1 and counts["rows"] == len(rows)
        assert counts["dropped"] == {
            "empty answer": 2,
            "no difference within max_length 16": 2,
            "identical answers": 1,
            "answers differ only in white space": 1,
        }, kind


def test_answers_that_become_the_same_tokens_are_dropped() -> None:
    made = AutoTokenizer.from_pretrained(CHARACTERS)
    made._tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    (row,) = PairRenderer(made, "split").render([example("yes", "YES")])
    assert isinstance(row, Dropped) and row.reason == "answers are the same tokens"


def test_prompt_is_shared_and_masks_follow_the_turns() -> None:
    made = AutoTokenizer.from_pretrained(CHARACTERS)
    user, good, bad = (
        {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yes"), ("assistant", "no"))
    )
    again = {"role": "user", "content": "more"}
    (row,) = PairRenderer(made, "split").render([example([good, again, bad], [bad], [user])])
    assert isinstance(row, RenderedRow)
    columns = row.columns
    chosen = np.concatenate([columns["prompt_ids"], columns["chosen_ids"]])
    assert made.decode(chosen) == "<s><|user|>hi<|assistant|>yes</s><|user|>more<|assistant|>no</s>"
    learned = made.decode(columns["chosen_ids"][columns["chosen_mask"].astype(bool)])
    assert learned == "yes</s>no</s>"  # the user's turn in between is not learned
    assert made.decode(columns["prompt_ids"]) == "<s><|user|>hi<|assistant|>"
    whole = PairRenderer(made, "whole").render([example([good, again, bad], [bad], [user])])[0]
    assert isinstance(whole, RenderedRow) and np.array_equal(whole.columns["chosen_ids"], chosen)


def test_too_long_pairs_lose_their_end_or_the_start_of_their_prompt() -> None:
    made = AutoTokenizer.from_pretrained(CHARACTERS)
    pair = example("good answer", "bad", "a b c d e f g h i j k l m n o p ")
    full, start, end = (
        PairRenderer(made, "split", length, keep_end).render([pair])[0]
        for length, keep_end in ((None, False), (40, False), (40, True))
    )
    assert isinstance(full, RenderedRow) and isinstance(start, RenderedRow) and isinstance(end, RenderedRow)
    assert full.length > 40 and start.length == end.length == 40
    assert start.truncated and end.truncated and not full.truncated
    assert np.array_equal(start.columns["prompt_ids"], full.columns["prompt_ids"])
    assert len(start.columns["chosen_ids"]) < len(full.columns["chosen_ids"])
    cut = full.length - 40
    assert np.array_equal(end.columns["prompt_ids"], full.columns["prompt_ids"][cut:])
    for side in ("chosen_ids", "rejected_ids"):
        assert np.array_equal(end.columns[side], full.columns[side])


def test_margins_are_kept(pairs: Pairs) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2.5},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    assert pairs(rows, "whole").train["margin"] == [2.5, 0.0]


def test_pairs_of_one_prompt_stay_on_one_side_of_the_split(pairs: Pairs) -> None:
    rows = [{"prompt": f"prompt {n // 4} ", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(80)]
    made = pairs(rows, data={"eval_fraction": 0.25})
    assert made.eval is not None and len(made.eval) + len(made.train) == 80
    kept, held = ({tuple(ids) for ids in part["prompt_ids"]} for part in (made.train, made.eval))
    assert not kept & held


def test_answers_with_a_verdict_and_pairs_taken_apart(pairs: Pairs) -> None:
    rows = [{"prompt": "p ", "completion": f"a{n}", "label": n % 2 == 0} for n in range(4)]
    made = pairs(rows, "unpaired").train
    assert made["label"] == [True, False, True, False]
    taken = pairs([{"prompt": "p ", "chosen": "good", "rejected": "bad"}], "unpaired").train
    assert taken["label"] == [True, False] and len(set(map(tuple, taken["prompt_ids"]))) == 1
    with pytest.raises(UserError, match="label: must be true"):
        pairs([{"prompt": "p ", "completion": "a", "label": "perhaps"}], "unpaired")


def test_an_encoders_closing_token_survives_the_cut(tmp_path: Path) -> None:
    made = bert_tokenizer(tmp_path)
    (row,) = PairRenderer(made, "whole", 8).render([example("good " * 9, "bad " * 9)])
    assert isinstance(row, RenderedRow) and row.truncated
    for side in ("chosen_ids", "rejected_ids"):
        ids = row.columns[side]
        assert len(ids) == 8 and ids[0] == made.cls_token_id and ids[-1] == made.sep_token_id


def bert_tokenizer(folder: Path) -> Any:
    """A WordPiece tokenizer of a few words, which puts [CLS] and [SEP] around each text and has no EOS."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "good", "bad", ":", "human"]
    (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]))
    return BertTokenizerFast(str(folder / "vocab.txt"))


def test_real_transcripts_are_split_and_nothing_is_lost(shared_data: Path) -> None:
    """Prompt and answers joined give each transcript back, as text and as tokens; what is dropped is counted."""
    path = shared_data / "hh_rlhf_harmless" / "harmless_base_test_1500.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    items = list(examples_of(Source(path=str(path)), Path(), PREFERENCE))
    made = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    kept = [item for item in items if isinstance(item, Example)]
    for item in kept:
        for word in ("chosen", "rejected"):
            assert join_transcript([*item.data["prompt"], *item.data[word]]) == item.row.data[word]
    rendered = PairRenderer(made, "whole").render(kept)
    for item, row in zip(kept, rendered, strict=True):
        assert isinstance(row, RenderedRow)
        wanted = made(item.row.data["chosen"])["input_ids"]
        assert row.columns["chosen_ids"].tolist()[: len(wanted)] == wanted
    dropped = Counter(item.reason for item in items if isinstance(item, Dropped))
    assert len(kept) + dropped.total() == len(rows) == 1500
