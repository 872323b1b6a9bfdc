"""What every trainer here adds: it refuses non-finite numbers, names examples, and keeps their order."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput

from alignkit import checkpoints
from alignkit.errors import RunFailed
from alignkit.trainers.checkpoints import WholeCheckpoints
from alignkit.trainers.ranks import BLANK, EXAMPLE_IDS, Padded, WithBlanks
from alignkit.trainers.sampling import LengthGroupedOrder, SeededOrder

# Columns that travel in a batch beside the model's inputs. They are taken out before the model sees the batch.
TOKENS = "alignkit_tokens"


class Tagged:
    """A collator that keeps the ids of a batch's examples and counts its real (unpadded) tokens: no device sync."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        batch = self.collator(examples)
        if isinstance(batch, dict) or hasattr(batch, "keys"):
            batch[EXAMPLE_IDS] = [_ids(example.get(EXAMPLE_IDS)) for example in examples]
            batch[TOKENS] = sum(
                len(ids)
                for example in examples
                if example.get(EXAMPLE_IDS) != BLANK
                for key, ids in example.items()
                if key.endswith("_ids")
            )
        return batch


def _ids(value: Any) -> str:
    """The ids of one row as one string: nested lists of strings do not survive every collective of Accelerate."""
    return ", ".join(value) if isinstance(value, list) else str(value)


class Guards(WholeCheckpoints):
    """Mixed in before a subclass of Trainer by `guarded`: `super()` here is that subclass."""

    data_collator: Any
    _micro_losses: list[torch.Tensor]
    _micro_ids: list[list[str]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator = Tagged(self.data_collator)
        self.remove_callback(PrinterCallback)  # it prints each log to stdout, which is for results
        self._micro_losses, self._micro_ids = [], []
        self._eval_nll: list[torch.Tensor] = []
        self._eval_tokens: list[torch.Tensor] = []

    # ------------------------------------------------------------------ non-finite numbers
    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        ids = _take_extras(self, inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._micro_losses.append(loss)
        self._micro_ids.append(ids)
        self.note_order(ids)
        return loss

    # ------------------------------------------------------------------ evaluation loss
    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Upstream averages the means of batches, so how rows fall into them matters; here each token weighs alike."""
        self._eval_nll, self._eval_tokens = [], []
        output = super().evaluation_loop(*args, **kwargs)
        key = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if self._eval_nll and output.metrics and key in output.metrics:
            sums = torch.stack(
                [torch.stack(self._eval_nll).sum().double(), torch.stack(self._eval_tokens).sum().double()]
            )
            nll, tokens = self.accelerator.reduce(sums, "sum").tolist()
            output.metrics[key] = nll / max(tokens, 1)
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        _take_extras(None, inputs)
        labels = inputs.get("labels") if hasattr(inputs, "get") else None
        result = super().prediction_step(model, inputs, *args, **kwargs)
        if labels is not None and labels.shape == getattr(inputs.get("input_ids"), "shape", None):
            learned = (labels[..., 1:] != -100).sum()
            self._eval_nll.append(result[0].detach().mean().float() * learned)
            self._eval_tokens.append(learned)
        return result

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once before each optimizer step: the last moment at which the weights are still good."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        losses, ids = torch.stack(self._micro_losses), self._micro_ids
        self._micro_losses, self._micro_ids = [], []
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips steps of non-finite gradients itself
        norm = torch.as_tensor(0.0 if scaled or grad_norm is None else grad_norm, device=losses.device)
        if not bool(torch.isfinite(losses).all() & torch.isfinite(norm)):  # one device sync a step
            self._refuse(losses, norm, ids)
        return grad_norm

    def _refuse(self, losses: torch.Tensor, norm: torch.Tensor, ids: list[list[str]]) -> None:
        bad = [index for index, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
        what = f"the loss is {losses[bad[0]].item()}" if bad else f"the gradient norm is {norm.item()}"
        examples = [name for index in (bad or range(len(ids))) for name in ids[index]]
        shown = ", ".join(examples[:16]) + (f" and {len(examples) - 16} more" if len(examples) > 16 else "")
        last = checkpoints.by_step(Path(self.args.output_dir))
        raise RunFailed(
            f"{what} at step {self.state.global_step + 1} (examples: {shown or 'unknown'}); "
            f"last good checkpoint: {last[0][1] if last else 'none yet'}; "
            "look at these examples, or lower training.learning_rate"
        )

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """What upstream does too late: ask whether training is over, and tell the order of examples its epoch.

        It asks after a step, so a run resumed at its last one would take another. And it tells the epoch to what is
        left of a resumed epoch's batches, which pass it on only where one process has them all: on several, a run
        resumed past its first epoch would see the first one's order.
        """
        if self.state.global_step >= self.state.max_steps or self._patience_is_out():
            self.control.should_training_stop = True
            return
        batches: Any = kwargs.get("train_dataloader")
        epoch = kwargs.get("epoch")
        if epoch is not None and hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        super()._run_epoch(*args, **kwargs)

    def _patience_is_out(self) -> bool:
        found = [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in found)

    # ------------------------------------------------------------------ order
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        column = self.args.length_column_name
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if (
            not grouped
            or column not in (getattr(dataset, "column_names", None) or ())
            or not hasattr(dataset, "__len__")
        ):
            return super()._get_train_sampler(train_dataset)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedOrder(dataset[column], together, self._order_seed)

    blank_row: dict[str, Any] | None = None
    """A row that teaches nothing, of methods whose loss weighs each learned token alike. See `ranks.WithBlanks`."""

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **rest: Any
    ) -> Any:
        if self.args.world_size == 1 or self.blank_row is None or not hasattr(dataset, "__getitems__"):
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, **rest)

        def padded(_with_blanks: WithBlanks) -> Sampler:
            order = sampler_fn(dataset) if sampler_fn is not None else None
            order = SequentialSampler(dataset) if order is None else order
            if isinstance(order, RandomSampler):  # Accelerate would make it one, but does not see it inside
                order = SeededOrder(len(dataset), self._order_seed)
            return Padded(order, batch_size * self.args.world_size, blank=len(dataset))

        return super()._get_dataloader(WithBlanks(dataset, self.blank_row), description, batch_size, padded, **rest)

    @property
    def _order_seed(self) -> int:
        seed: int = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return seed

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """TRL writes a card beside each checkpoint; alignkit's describes the result and is written once."""


def _take_extras(trainer: Guards | None, inputs: Any) -> list[str]:
    """Take what `Tagged` added out of a batch; count the tokens on `trainer` when one is given."""
    if isinstance(inputs, list):  # rows as they are, of trainers that make their batches themselves
        return list(dict.fromkeys(_ids(row.get(EXAMPLE_IDS)) for row in inputs if isinstance(row, dict)))
    if not hasattr(inputs, "pop"):
        return []
    tokens = inputs.pop(TOKENS, 0)
    if trainer is not None:
        trainer.tokens_seen += tokens
    return inputs.pop(EXAMPLE_IDS, [])


@functools.cache
def guarded(trainer_class: type[Trainer]) -> type[Trainer]:
    """`trainer_class` with the guards of this module mixed in; same name, same arguments."""
    return type(
        trainer_class.__name__, (Guards, trainer_class), {"__module__": __name__, "__doc__": trainer_class.__doc__}
    )
