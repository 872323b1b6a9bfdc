"""TRL's reward, DPO and KTO trainers over rows that alignkit has rendered.

What is overridden is narrow: TRL's own preparation of texts is skipped, its collators get masks that follow the turns,
and precomputed reference log-probabilities are computed in order of length once the reference is settled.
tests/methods/test_seams.py watches the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.trainer.utils import use_adapter

from alignkit.data.sources import quiet_datasets
from alignkit.models.reference import ADAPTER

MOST_LOGITS = 2**26
"""Logits held at a time for the exact divergence of an eval batch; further rows of the batch are left out."""
Row = dict[str, Any]


class AnswerBatches:
    """Batches answers with their prompts: (N, T) each of `input_ids`, `attention_mask` and `completion_mask`.

    Args:
        sides: prefixes of the columns that are laid below each other: chosen above rejected, as TRL's losses have it.
        carried: columns of numbers that are handed on as tensors where rows have them.
    """

    def __init__(
        self, pad_token_id: int, sides: Sequence[str], carried: Sequence[str] = (), multiple: int | None = None
    ) -> None:
        self.pad_token_id = pad_token_id
        self.sides = sides
        self.carried = carried
        self.multiple = multiple or 1

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = self.laid_out(rows, self.sides)
        for name in self.carried:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    def laid_out(self, rows: Sequence[Row], sides: Sequence[str]) -> dict[str, torch.Tensor]:
        ids = [row["prompt_ids"] + row[f"{side}_ids"] for side in sides for row in rows]
        masks = [[0] * len(row["prompt_ids"]) + row[f"{side}_mask"] for side in sides for row in rows]
        width = -(-max(map(len, ids)) // self.multiple) * self.multiple
        return {
            "input_ids": _padded(ids, self.pad_token_id, width),
            "attention_mask": _padded([[1] * len(row) for row in ids], 0, width),
            "completion_mask": _padded(masks, 0, width),
        }


class UnpairedBatches(AnswerBatches):
    """The same for single answers with a verdict, and for the mismatched ones that KTO estimates its KL term from."""

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        if "KL_completion_ids" in rows[0]:
            batch |= {f"KL_{name}": value for name, value in self.laid_out(rows, ("KL_completion",)).items()}
        return batch


def _padded(rows: list[list[int]], value: int, width: int) -> torch.Tensor:
    batch = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
    return torch.nn.functional.pad(batch, (0, width - batch.shape[1]), value=value)


# ---------------------------------------------------------------------- reward models
class WholePairsTrainer(RewardTrainer):
    """TRL's RewardTrainer over the rows of `data.pairs`, kind `whole`."""

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        return dataset  # rendered and cut already; upstream would drop what is too long without a word


# ---------------------------------------------------------------------- DPO
class PairsTrainer(DPOTrainer):
    """TRL's DPOTrainer over the rows of `data.pairs`, kind `split`. Call `precompute` once the reference is settled."""

    train_dataset: Any
    eval_dataset: Any

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        return dataset  # rendered already

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Upstream's constructor asks for this before alignkit could settle what the reference is."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        return dataset

    def precompute(self) -> None:
        """Reference log-probabilities of all rows, as columns; batches of like length, the longest first."""
        if not self.args.precompute_ref_log_probs or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        size = self.args.precompute_ref_batch_size
        self.train_dataset = self._with_log_probs(self.train_dataset, size or self.args.per_device_train_batch_size)
        if self.eval_dataset is not None:
            self.eval_dataset = self._with_log_probs(self.eval_dataset, size or self.args.per_device_eval_batch_size)

    def _with_log_probs(self, dataset: Any, size: int) -> Any:
        accelerator = self.accelerator
        order = np.argsort(-np.asarray(dataset["length"]), kind="stable")
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        mine = range(accelerator.process_index, len(batches), accelerator.num_processes)
        found: np.ndarray = np.zeros((2, len(order)), dtype=np.float32)
        training = self.model.training
        self.model.eval()
        for number in mine:
            batch = self.data_collator([dataset[int(place)] for place in batches[number]])
            inputs = {key: value.to(accelerator.device) for key, value in batch.items() if torch.is_tensor(value)}
            chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            found[0, batches[number]], found[1, batches[number]] = chosen.float().cpu(), rejected.float().cpu()
        self.model.train(training)
        total = accelerator.reduce(torch.from_numpy(found).to(accelerator.device), "sum").cpu().numpy()
        return dataset.add_column("ref_chosen_logps", total[0]).add_column("ref_rejected_logps", total[1])

    # ------------------------------------------------------------------ distance to the reference
    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Beside what upstream measures of an eval batch: KL(policy ‖ reference) a token of the answers, exactly."""
        result = super().prediction_step(model, inputs, *args, **kwargs)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            kl = self._divergence(inputs)
            if kl is not None:
                self._metrics["eval"]["kl"].append(self.accelerator.gather(kl).mean().item())
        return result

    @torch.no_grad()
    def _divergence(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Σ_v π(v) log(π(v) / ref(v)), the mean over the answers' positions; None where no reference is in memory."""
        adapters = getattr(self.model, "peft_config", {})
        if self.ref_model is None and not adapters:
            return None  # its log-probabilities were computed beforehand, and it is gone
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        rows = max(1, MOST_LOGITS // (vocabulary * inputs["input_ids"].shape[1]))
        part = {key: inputs[key][:rows] for key in ("input_ids", "attention_mask", "completion_mask")}
        policy = _answer_logits(self.model, part).float().log_softmax(-1)
        if self.ref_model is not None:
            held = _answer_logits(self.ref_model, part)
        else:
            with use_adapter(self.model, ADAPTER if ADAPTER in adapters else None):
                held = _answer_logits(self.model, part)
        return (policy.exp() * (policy - held.float().log_softmax(-1))).sum(-1).mean()


def displaced(log: Sequence[dict[str, float]]) -> float | None:
    """By how many nats the chosen answers of the eval split fell from its first to its last line; None if they rose."""
    found = [line["eval_logps/chosen"] for line in log if "eval_logps/chosen" in line]
    return found[0] - found[-1] if len(found) > 1 and found[-1] < found[0] else None


def _answer_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits, (N, V), of the positions that the answers' tokens are predicted from; no others are computed."""
    learned = inputs["completion_mask"][:, 1:].bool()
    plain = model.get_base_model() if hasattr(model, "peft_config") else model

    def select(_module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0][:, -learned.shape[1] - 1 : -1][learned][None], *given[1:])

    handle = plain.get_output_embeddings().register_forward_pre_hook(select)
    try:
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits[0]
    finally:
        handle.remove()


# ---------------------------------------------------------------------- KTO
class UnpairedTrainer(KTOTrainer):
    """TRL's KTOTrainer over the rows of `data.pairs`, kind `unpaired`."""

    def _prepare_dataset(self, dataset: Any, _processing_class: Any, args: Any, _name: str) -> Any:
        """The mismatched answers, as upstream makes them: each batch's, moved on by one row."""
        if not self.calculate_KL:
            return dataset
        with quiet_datasets():
            return dataset.map(_moved_on, batched=True, batch_size=args.per_device_train_batch_size)


def _moved_on(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"KL_{name}": [rows[name][-1], *rows[name][:-1]] for name in ("completion_ids", "completion_mask")}
