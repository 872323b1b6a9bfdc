"""Completions and rewards for a file: as generation and reward models give them, streamed, and gone on with."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from alignkit.errors import UserError
from alignkit.evaluation import completer
from alignkit.predict import predict


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_completions_are_what_generate_gives(
    tiny_model: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    rows = [{"text": "abc"}, {"prompt": "abc"}, {"question": "1+1="}, {"messages": chat}, {"prompt": "x" * 70}]
    assert predict(str(tiny_model), write_jsonl(rows), tmp_path / "out.jsonl") == 5
    found = lines(tmp_path / "out.jsonl")
    assert [one["id"] for one in found] == [f"data.jsonl:{number}" for number in range(1, 6)]
    assert found[0]["completion"] == found[1]["completion"] and found[2]["completion"] == found[3]["completion"]
    assert found[4] == {"id": "data.jsonl:5", "error": "the prompt fills the model's context"}
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_length=64)[0, ids["input_ids"].shape[1] :]
    assert found[2]["completion"] == tokenizer.decode(out, skip_special_tokens=True)


def test_a_stopped_file_is_gone_on_with(
    tiny_model: Path, write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl([{"prompt": f"{number}+1="} for number in range(140)])
    predict(str(tiny_model), file, tmp_path / "whole.jsonl")
    answer, calls = completer.CompletionPredictor.answer, []

    def stopping(self: Any, asked: Any) -> Any:
        calls.append(len(asked))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(self, asked)

    monkeypatch.setattr(completer.CompletionPredictor, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(str(tiny_model), file, tmp_path / "out.jsonl")
    assert len(lines(tmp_path / "out.jsonl.partial")) == 64
    predict(str(tiny_model), file, tmp_path / "out.jsonl")
    assert calls == [64, 64, 64, 12]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_rewards_of_answers_and_pairs(tiny_model: Path, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                         num_attention_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id,
                         max_position_embeddings=64)  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    pair = {"prompt": "1+1=", "chosen": "2", "rejected": "33"}
    rows = [pair, {"prompt": "1+1=", "completion": "2"}, {"prompt": "1+1=", "completion": "33"}]
    predict(str(tmp_path / "reward"), write_jsonl(rows), tmp_path / "out.jsonl")
    both, chosen, rejected = lines(tmp_path / "out.jsonl")
    assert (both["chosen_reward"], both["rejected_reward"]) == (chosen["reward"], rejected["reward"])
    ids = tokenizer("1+1=2" + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(input_ids=ids).logits[0, 0].item() == pytest.approx(chosen["reward"], abs=1e-5)


def test_rows_without_a_prompt_are_named(tiny_model: Path, write_jsonl: Callable[..., Path]) -> None:
    file = write_jsonl([{"prompt": "a"}, {"title": "b"}])
    with pytest.raises(UserError, match=r"data.jsonl:2: .*columns title .* fit no shape"):
        predict(str(tiny_model), file)


def test_to_stdout(
    tiny_model: Path, write_jsonl: Callable[..., Path], cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_jsonl([{"prompt": "a"}])
    done = cli("predict", tiny_model, "data.jsonl")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"id", "completion", "tokens", "finish"}


@pytest.mark.parametrize(("written", "first"), [('{"prompt": "a"}\n', "stdin.jsonl:1"), ("a\n\nb\n", "stdin.txt:1")])
def test_of_stdin(tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                  written: str, first: str) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(written.encode())))
    predict(str(tiny_model), "-")
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers[0]["id"] == first and len(answers) == len(written.split("\n\n"))


def test_what_is_wrong_with_stdin_names_it(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for written, told in ((b"", r"^stdin: the file is empty"), (b'{"title": "b"}\n', r"^stdin:1: ")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(written)))
        with pytest.raises(UserError, match=told):
            predict(str(tiny_model), "-")
