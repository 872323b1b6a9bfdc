"""Packed rows to a batch that keeps them rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

Row = dict[str, Any]


class PackedRows:
    """Batches packed rows as (B, T), with position ids that start again at each document, and no attention mask.

    As exact as TRL's padding-free collator, which lays all rows of a batch end to end: right for kernels that take
    sequence boundaries (flash attention). Under SDPA and eager attention its mask is (B·T)², and this one's B·T².
    Give it to a trainer after its construction (`trainer.data_collator = …`): TRL refuses it before.

    Args:
        pad_token_id: fills up shorter rows, as documents of their own that are not learned.
        pad_to_multiple_of: T is rounded up to it.
    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> None:
        self.pad_token_id = pad_token_id
        self.multiple = pad_to_multiple_of or 1

    def __call__(self, examples: Sequence[Row]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels` and `position_ids`, (B, T) each, of rows with `input_ids`, `labels`, `seq_lengths`."""
        longest = max(len(row["input_ids"]) for row in examples)
        width = -(-longest // self.multiple) * self.multiple
        positions = []
        for row in examples:
            lengths = [*row["seq_lengths"], width - len(row["input_ids"])]
            positions.append(torch.cat([torch.arange(length) for length in lengths]))
        position_ids = torch.stack(positions)
        labels = _padded([row["labels"] for row in examples], -100, width)
        labels[position_ids == 0] = -100
        input_ids = _padded([row["input_ids"] for row in examples], self.pad_token_id, width)
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}


def _padded(rows: list[list[int]], value: int, width: int) -> torch.Tensor:
    batch = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
    return torch.nn.functional.pad(batch, (0, width - batch.shape[1]), value=value)
