"""Packed rows give each example the logits and the loss it has alone, in TRL's trainer, training and evaluating."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
)
from trl import SFTConfig, SFTTrainer

import alignkit
from alignkit.data import Prepared, prepare_language_modeling
from alignkit.data.collate import PackedRows
from alignkit.data.exactness import packing_leak, require_exact_packing
from alignkit.errors import UserError

TOLERANCE = 1e-5
WORDS = "one day a little girl went to the park and saw a big red ball near tree".split()  # noqa: SIM905


@pytest.fixture(scope="module", params=["random", "stories260K"])
def model_folder(request: pytest.FixtureRequest, tiny_model: Path) -> Path:
    """A random Llama, and the real small one where it is at hand."""
    if request.param == "random":
        return tiny_model
    return request.getfixturevalue("shared_data") / "stories260K"


def load(folder: Path) -> PreTrainedModel:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def prepared(folder: Path, where: Path, monkeypatch: pytest.MonkeyPatch, **training: Any) -> tuple[Prepared, Any]:
    """About twenty examples of different lengths, one of a single supervised token; the same ones as eval data."""
    monkeypatch.setenv("ALIGNKIT_CACHE", str(where / "cache"))
    rows = []
    for number in range(20):
        answer = WORDS[number % 7 : number % 7 + number % 6 + 1]
        rows.append({"prompt": " ".join([str(number), *WORDS[: number % 5]]), "completion": " " + " ".join(answer)})
    (where / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "method": "sft",
        "output_dir": str(where / "run"),
        "model": {"model_name_or_path": str(folder)},
        "data": {"train": "rows.jsonl", "eval": "rows.jsonl"},
        "training": {"max_length": 64, **training},
    }
    (where / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    loaded = alignkit.load_recipe(where / "recipe.yaml")
    made = prepare_language_modeling(loaded, tokenizer, shapes=("prompt_completion",), say=print)
    return made, tokenizer


def trainer_for(model: PreTrainedModel, data: Prepared, tokenizer: Any, where: Path, packing: bool) -> SFTTrainer:
    arguments = SFTConfig(
        output_dir=str(where / "run"),
        max_length=64,
        packing=packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )
    return SFTTrainer(model, arguments, train_dataset=data.train, eval_dataset=data.eval, processing_class=tokenizer)


def alone(model: PreTrainedModel, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """An example's logits (T, V), and the NLL of each of its supervised tokens (S,), with nothing else in the batch."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    learned = labels[1:] != -100
    return logits, torch.nn.functional.cross_entropy(logits[:-1][learned], labels[1:][learned], reduction="none")


def batches(trainer: SFTTrainer, training: bool) -> list[dict[str, Any]]:
    loader = trainer.get_train_dataloader() if training else trainer.get_eval_dataloader()
    return [trainer._prepare_inputs(batch) for batch in loader]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [False, True])
def test_logits_and_loss_of_packed_rows(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: bool, rows: bool
) -> None:
    """With TRL's collator, which lays rows end to end, and with alignkit's, which keeps them apart."""
    packed, tokenizer = prepared(model_folder, tmp_path, monkeypatch, packing=True)
    single, _ = prepared(model_folder, tmp_path, monkeypatch)
    assert packed.counts["train"]["packed_rows"] < len(single.train) / 2
    examples = {tuple(row["input_ids"]): row for row in single.train}
    trainer = trainer_for(load(model_folder), packed, tokenizer, tmp_path, packing=True)
    model = trainer.model.train(training)
    if rows:
        trainer.data_collator = PackedRows(tokenizer.pad_token_id, pad_to_multiple_of=8)
    (batch,) = batches(trainer, training)
    assert "attention_mask" not in batch
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(batch))
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False).logits
    losses = []
    for ids, positions, found in zip(batch["input_ids"], batch["position_ids"], logits, strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for start, stop in itertools.pairwise(starts):
            if (row := examples.pop(tuple(ids[start:stop].tolist()), None)) is None:
                assert stop == len(ids) and (ids[start:] == tokenizer.pad_token_id).all()
                continue
            expected, nll = alone(model, row)
            assert (found[start:stop] - expected).abs().max() < TOLERANCE * expected.abs().max().clamp(min=1)
            losses.append(nll)
    assert not examples  # every example was there
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), abs=TOLERANCE)


def test_a_training_step_and_an_evaluation_equal_the_unpacked_ones(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for packing, rows in ((False, False), (True, False), (True, True)):
        data, tokenizer = prepared(model_folder, tmp_path, monkeypatch, packing=packing)
        trainer = trainer_for(load(model_folder), data, tokenizer, tmp_path, packing)
        if rows:
            trainer.data_collator = PackedRows(tokenizer.pad_token_id)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
        results.append((before, logged[0], trainer.evaluate()["eval_loss"], weights))
    before, loss, after, weights = results[0]
    assert before != pytest.approx(after, abs=1e-3)  # the step did something
    for packed_before, packed_loss, packed_after, packed_weights in results[1:]:
        assert packed_before == pytest.approx(before, abs=TOLERANCE)
        assert packed_loss == pytest.approx(loss, abs=1e-4)  # the trainer logs four decimals
        assert packed_after == pytest.approx(after, abs=TOLERANCE)
        assert (weights - packed_weights).abs().max() < TOLERANCE


def test_a_model_that_mixes_packed_documents_is_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(model_folder, tmp_path, monkeypatch, packing=True)
    recipe = alignkit.load_recipe(tmp_path / "recipe.yaml")
    require_exact_packing(recipe, load(model_folder))
    mixing = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2))
    with pytest.raises(UserError, match=r"training\.packing: BloomForCausalLM .*packing: false"):
        require_exact_packing(recipe, mixing)
    mixing = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    assert packing_leak(mixing) == 0.0
