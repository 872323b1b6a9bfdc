"""What the training benchmarks share: a 5M-parameter Llama, real rows, and the peers' commands run in turn."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BIN = Path(sys.executable).parent


def rows(folder: Path) -> list[dict[str, str]]:
    """Prompts and completions of Self-Instruct's seed tasks and of GSM8K's training set (see benchmarks/README.md)."""
    result = []
    for line in (folder / "self_instruct" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        for instance in task["instances"]:
            prompt = task["instruction"] + ("\n" + instance["input"] if instance["input"] else "") + "\n"
            result.append({"prompt": prompt, "completion": instance["output"]})
    for line in (folder / "gsm8k" / "train_2000.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        result.append({"prompt": row["question"] + "\n", "completion": row["answer"]})
    return result


def write_jsonl(path: Path, examples: Iterable[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    return path


def small_llama(folder: Path, texts: Sequence[str], vocabulary: int = 4096) -> Path:
    """A random Llama of about 5M parameters with a byte-level BPE tokenizer of its own; nothing is downloaded."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "model.safetensors").exists():
        return folder
    trained = ByteLevelBPETokenizer()
    special = ["<pad>", "<s>", "</s>"]
    trained.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=704, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def environment() -> dict[str, str]:
    """Offline, quiet, without telemetry, and with this interpreter's commands on the path: the same for every peer."""
    added = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return {**os.environ, **added}


def timed(command: Sequence[str], env: Mapping[str, str], folder: Path | None = None) -> tuple[float, float]:
    """(wall, CPU) seconds of a command that runs in `folder`."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def held_out_loss(model: Path, tokenizer: Path, examples: Sequence[dict[str, str]], max_length: int = 1024) -> float:
    """Mean negative log-likelihood, in nats, of the completions' tokens and the stop token: one code for all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encode = AutoTokenizer.from_pretrained(tokenizer)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for example in examples:
            prompt = encode(example["prompt"])["input_ids"]
            both = encode(example["prompt"] + example["completion"] + encode.eos_token)["input_ids"][:max_length]
            if len(both) <= len(prompt):
                continue
            logits = network(torch.tensor([both])).logits[0, len(prompt) - 1 : -1].float()
            wanted = torch.tensor(both[len(prompt) :])
            total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            count += len(wanted)
    return total / count


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [[str(cell) for cell in line] for line in [header, ["---"] * len(header), *lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
