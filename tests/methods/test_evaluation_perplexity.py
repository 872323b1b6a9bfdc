"""Perplexity: equal to a naive loop, over documents, windows and chats; and the figure published for a real model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, GPT2Config, LlamaConfig

from alignkit.errors import RunFailed, UserError
from alignkit.evaluation import evaluate_tasks
from alignkit.evaluation.attention import fast_attention
from alignkit.evaluation.likelihood import Document, likelihoods, windows_of
from alignkit.evaluation.perplexity import as_documents
from alignkit.examples import Example, Row
from alignkit.model_folders import TOKENIZERS
from alignkit.recipe import EvaluationTask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZERS / "characters")


def small(config_class: Any = LlamaConfig, **more: Any) -> Any:
    torch.manual_seed(0)
    fields = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.5,
        **more,
    }
    return AutoModelForCausalLM.from_config(config_class(**fields)).eval()


def documents(lengths: list[int], seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(str(i), rng.integers(3, 300, size=n), (np.arange(n) > 0) & (rng.random(n) < 0.7))
        for i, n in enumerate(lengths)
    ]


def naive(model: Any, document: Document, max_length: int, stride: int) -> tuple[float, int, int]:
    """The loop of transformers' perplexity guide: one window at a time, all logits, context masked out."""
    ids, nats, tokens, correct, before = torch.tensor(document.ids), 0.0, 0, 0, 1
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        with torch.no_grad():
            log_p = model(ids[None, begin:end]).logits[0].double().log_softmax(-1)
        for place in range(before, end):
            if document.scored[place] and place > begin:
                nats -= float(log_p[place - 1 - begin, ids[place]])
                correct += int(log_p[place - 1 - begin].argmax() == ids[place])
                tokens += 1
        before = end
        if end == len(ids):
            break
    return nats, tokens, correct


@pytest.mark.parametrize("stride", [1, 16, 40, 63])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_equals_the_guides_loop(stride: int, batch_size: int) -> None:
    model, texts = small(), documents([2, 5, 64, 65, 66, 130, 200, 17, 63])
    found = likelihoods(model, texts, max_length=CONTEXT, stride=stride, batch_size=batch_size)
    for one, text in zip(found, texts, strict=True):
        nats, tokens, correct = naive(model, text, CONTEXT, stride)
        assert (one.tokens, one.correct) == (tokens, correct)
        assert one.nats == pytest.approx(nats, rel=1e-5)


def test_without_overlap_no_token_goes_unscored() -> None:
    text = Document("a", np.arange(3, 203), np.arange(200) > 0)
    windows = list(windows_of(0, text, CONTEXT, CONTEXT))
    assert np.concatenate([window.targets for window in windows]).tolist() == list(range(1, 200))
    assert all(window.end - window.start <= CONTEXT and window.targets.min() > window.start for window in windows)
    assert likelihoods(small(), [text], max_length=CONTEXT, stride=CONTEXT)[0].tokens == 199


def test_every_token_has_the_context_that_the_stride_promises() -> None:
    text = Document("a", np.arange(3, 503), np.arange(500) > 0)
    for window in list(windows_of(0, text, CONTEXT, 10))[1:]:
        assert (window.targets - window.start).min() >= CONTEXT - 10


@pytest.mark.parametrize(
    "config",
    [
        (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}),
        (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    ],
    ids=["soft-capped logits", "learned positions"],
)
def test_what_a_model_does_to_its_logits_and_positions_is_kept(config: Any) -> None:
    model, text = small(config[0], **config[1]), documents([100])[0]
    found = likelihoods(model, [text, *documents([20, 31], seed=1)], max_length=CONTEXT, stride=32)[0]
    assert found.nats == pytest.approx(naive(model, text, CONTEXT, 32)[0], rel=1e-4)


@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)])
@pytest.mark.parametrize("length", [2, 63, 64, 65, 200])
def test_attention_in_blocks_equals_torchs(heads: tuple[int, int], length: int) -> None:
    model = small(
        num_attention_heads=heads[0], num_key_value_heads=heads[1], max_position_embeddings=256, initializer_range=0.2
    )
    ids = torch.randint(3, 300, (3, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(ids).logits
        with fast_attention(model):
            assert model.config._attn_implementation == "alignkit_blocks"
            assert torch.allclose(model(ids).logits, expected, atol=1e-4)
            # With a mask, or a cache, it is transformers' own attention that runs.
            mask = torch.ones_like(ids)
            mask[0, 0] = 0
            masked = model(ids, attention_mask=mask).logits
            first = model(ids[:, :-1], use_cache=True)
            step = model(ids[:, -1:], past_key_values=first.past_key_values).logits
        assert torch.allclose(masked, model(ids, attention_mask=mask).logits, atol=1e-4)
        assert torch.allclose(step[:, 0], expected[:, -1], atol=1e-4)
    assert model.config._attn_implementation == "sdpa"


def test_threads_change_nothing() -> None:
    model, texts = small(), documents([30, 64, 100, 65, 66, 20] * 4)
    alone = likelihoods(model, texts, max_length=CONTEXT, stride=32, batch_size=2)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = likelihoods(model, texts, max_length=CONTEXT, stride=32, batch_size=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert [one.nats for one in together] == pytest.approx([one.nats for one in alone], rel=1e-6)
    assert [one.correct for one in together] == [one.correct for one in alone]


def example(data: dict[str, Any], number: int = 1) -> Example:
    return Example(f"x:{number}", data, Row("x", None, number, data))


def test_a_text_is_scored_whole_after_bos_and_a_chat_where_the_assistant_speaks(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    text, said = as_documents([example({"text": "abc"}), example({"messages": chat}, 2)], tokenizer)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    assert text.document.ids.tolist() == [first, *tokenizer("abc", add_special_tokens=False)["input_ids"]]
    assert text.document.scored.tolist() == [False, True, True, True] and text.size == 3
    assert tokenizer.decode(said.document.ids[said.document.scored]).startswith("2") and said.size == 1
    (whole,) = as_documents([example({"messages": chat})], tokenizer, "all")
    assert whole.document.scored.sum() > said.document.scored.sum()


def run(tmp_path: Path, model: Any, tokenizer: Any, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"name": "ppl", "task": "perplexity", "data": "rows.jsonl", **fields}
    return evaluate_tasks(
        [EvaluationTask.model_validate(given)],
        model,
        tokenizer,
        base_dir=tmp_path,
        model_label="tuned",
        out_dir=tmp_path / "out",
        say=lambda _: None,
    )


def test_scores_are_ratios_of_sums_with_slices(tmp_path: Path, tokenizer: Any) -> None:
    model = small(vocab_size=len(tokenizer))
    rows = [{"text": "ab" * length, "kind": "long" if length > 9 else "short"} for length in (2, 5, 20, 60)]
    scores = {
        (score["metric"], score.get("slice", {}).get("value")): score
        for score in run(tmp_path, model, tokenizer, rows, slice_by="kind")
    }
    lines = [json.loads(line) for line in (tmp_path / "out" / "documents.jsonl").read_text().splitlines()]
    nats, tokens = sum(line["nats"] for line in lines), sum(line["tokens"] for line in lines)
    assert tokens == sum(2 * length for length in (2, 5, 20, 60))
    assert scores["perplexity", None]["value"] == pytest.approx(math.exp(nats / tokens))
    assert scores["bits_per_byte", None]["value"] == pytest.approx(nats / math.log(2) / tokens)
    assert 0 <= scores["token_accuracy", None]["value"] <= 1
    assert scores["perplexity", None]["n"] == 4 and scores["perplexity", "long"]["n"] == 2
    low, high = scores["perplexity", None]["ci95"]
    assert low <= scores["perplexity", None]["value"] <= high
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == list(scores.values())


def test_a_model_that_gives_nan_fails_and_writes_no_score(tmp_path: Path, tokenizer: Any) -> None:
    model = small(vocab_size=len(tokenizer))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(RunFailed, match="not finite"):
        run(tmp_path, model, tokenizer, [{"text": "abc"}])
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_length": CONTEXT + 1}, "evaluation.0.max_length"),
        ({"max_length": 20, "stride": 21}, "evaluation.0.stride"),
        ({"metrics": ["bleu"]}, "evaluation.0.metrics"),
        ({"slice_by": "colour"}, "evaluation.0.slice_by"),
    ],
)
def test_what_can_not_be_is_refused_by_field(
    tmp_path: Path, tokenizer: Any, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, small(vocab_size=len(tokenizer)), tokenizer, [{"text": "abc"}], **fields)
    assert caught.value.problems[0].field == field


@pytest.mark.skipif(not (SHARED / "stories260K").is_dir(), reason="needs ../shared/data")
def test_the_published_figure_of_stories260k(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(SHARED / "stories260K").eval()
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "stories260K")
    stories = (SHARED / "lm_text" / "tinystories_sample.txt").read_text().split("<|endoftext|>")
    scores = run(tmp_path, model, tokenizer, [{"text": story.strip()} for story in stories if story.strip()])
    lines = [json.loads(line) for line in (tmp_path / "out" / "documents.jsonl").read_text().splitlines()]
    assert sum(line["tokens"] for line in lines) == 1804
    assert round(math.log(scores[0]["value"]), 4) == 1.2664
