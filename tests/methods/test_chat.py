"""Talking to a result: answers are those of generate on the rendered conversation, streamed, with history."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.chat.speaker import Speaker
from alignkit.errors import UserError
from alignkit.evaluation.generate import Settings
from alignkit.models import save_result

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def speaker(tiny_model: Path) -> Speaker:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    return Speaker("tiny", model, tokenizer, Settings.of({"max_new_tokens": 8}))


def generated(speaker: Speaker, messages: list[dict[str, str]], **options: Any) -> str:
    """What plain transformers makes of it."""
    ids = speaker.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = speaker.model.generate(**ids, do_sample=False, max_new_tokens=8, **options)
    return speaker.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_an_answer_is_streamed_and_the_history_is_read(speaker: Speaker) -> None:
    pieces: list[str] = []
    talk = [{"role": "user", "content": "1+1="}]
    answer = speaker.answer(talk, 0, pieces.append)
    assert answer == generated(speaker, talk) == "".join(pieces)
    talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": "2+2="}]
    assert speaker.answer(talk, 0, pieces.append) == generated(speaker, talk)


def test_old_turns_are_forgotten_when_the_context_is_full(speaker: Speaker) -> None:
    system, last = {"role": "system", "content": "s"}, {"role": "user", "content": "2+2="}
    old = [{"role": "user", "content": "x" * 30}, {"role": "assistant", "content": "y" * 20}]
    assert speaker.answer([system, *old, last], 0, str) == generated(speaker, [system, last])  # 64 tokens in all
    with pytest.raises(UserError, match=r"the message has \d+ tokens, and the context of tiny 64"):
        speaker.answer([{"role": "user", "content": "x" * 70}], 0, str)


def test_an_answer_can_be_stopped(speaker: Speaker) -> None:
    heard: list[str] = []

    def impatient(text: str) -> None:
        heard.append(text)
        raise KeyboardInterrupt

    answer = speaker.answer([{"role": "user", "content": "1+1="}], 0, impatient)
    assert answer == "".join(heard) and len(answer) < 8


def test_sampling_follows_the_seed(tiny_model: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    sampling = Speaker("tiny", model, tokenizer, Settings.of({"do_sample": True, "temperature": 2.0}))
    ask = [{"role": "user", "content": "1+1="}]
    assert sampling.answer(ask, 1, str) == sampling.answer(ask, 1, str) != sampling.answer(ask, 2, str)


def test_beside_the_model_without_the_adapter(tiny_model: Path, tmp_path: Path, cli: Cli, speaker: Speaker) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    save_result(adapted, speaker.tokenizer, tmp_path / "adapter")
    words = ("chat", "adapter", "--max-new-tokens", 8, "-p", "1+1=")
    alone, both = cli(*words), cli(*words, "--compare", "base")
    assert alone.returncode == both.returncode == 0, both.stderr
    base = generated(speaker, [{"role": "user", "content": "1+1="}])
    assert alone.stdout.rstrip("\n") != base
    assert both.stdout == f"adapter:\n{alone.stdout}\nwithout the adapter:\n{base}\n\n"


def test_in_a_terminal(tiny_model: Path, tmp_path: Path, speaker: Speaker) -> None:
    mine, theirs = pty.openpty()
    command = [str(Path(sys.executable).parent / "alignkit"), "chat", str(tiny_model), "--max-new-tokens", "8"]
    talk = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, close_fds=True,
                            env={**os.environ, "TERM": "xterm"})  # fmt: skip
    os.close(theirs)
    os.write(mine, b"1+1=\n/help\n/clear\n2+2=\n/exit\n")
    text = b""
    try:
        while chunk := os.read(mine, 4096):
            text += chunk
    except OSError:  # the other end is closed
        pass
    assert talk.wait(60) == 0
    shown = text.decode(errors="replace").replace("\r\n", "\n")
    for question in ("1+1=", "2+2="):
        assert generated(speaker, [{"role": "user", "content": question}]) in shown
    assert shown.count("/clear forgets the conversation") == 2


def test_a_result_without_text_is_refused(tiny_model: Path, cli: Cli) -> None:
    done = cli("chat", "nowhere/", "-p", "x")
    assert done.returncode == 2
    done = cli("chat", tiny_model, "-p", "x", "--compare", "base")
    assert done.returncode == 2 and "--compare: it did not start from a model that could be asked" in done.stderr
