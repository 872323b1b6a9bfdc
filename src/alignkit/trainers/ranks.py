"""Several processes: the same rows to every number of them, and one result of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from alignkit.models import save_result

EXAMPLE_IDS = "example_id"
BLANK = ["blank"]  # what stands there for a row that teaches nothing
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


class WithBlanks:
    """Rows, and one more at index `len(rows)`: a blank that teaches nothing.

    Accelerate fills the last batch of an epoch up with rows from its beginning, which are then learned twice. With
    blanks in their place, any number of processes learns from the same rows.
    """

    def __init__(self, rows: Any, blank: dict[str, Any]) -> None:
        self.rows = rows
        self.blank = blank

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.blank if index >= len(self.rows) else self.rows[index]
        return row

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        real = [index for index in indices if index < len(self.rows)]
        found = iter(self.rows.__getitems__(real) if real else ())
        return [next(found) if index < len(self.rows) else self.blank for index in indices]


class Padded(Sampler[int]):
    """The order of another sampler, with blanks up to a multiple of what all processes take at a time."""

    def __init__(self, order: Any, together: int, blank: int) -> None:
        self.order = order
        self.together = together
        self.blank = blank

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.order) // self.together) * self.together

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from (self.blank for _ in range(len(self) - len(self.order)))


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds on any rank: all of them must do the same thing after the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    found = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found)


def summed(number: float, device: torch.device) -> float:
    """The sum over all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return number
    found = torch.tensor(float(number), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(found)
    return float(found)


def save_trained(trainer: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Save the whole result from the main process. Returns whether its weights are spread over the ranks."""
    accelerator = trainer.accelerator
    sharded = str(accelerator.distributed_type).rpartition(".")[2] in SHARDED
    weights = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None  # every rank takes part
    if accelerator.is_main_process:
        save_result(trainer.model, tokenizer, folder, state_dict=weights)
        save_beside = getattr(trainer, "save_beside", None)  # what a trainer has learned besides the policy: a critic
        if save_beside is not None:
            save_beside(folder.parent, weights)
    accelerator.wait_for_everyone()
    return sharded


def close_group(trainer: Any) -> None:
    """The ranks part, with what they counted added up: what follows happens in the main process alone."""
    trainer.tokens_seen = int(summed(trainer.tokens_seen, trainer.args.device))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        trainer.accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()
