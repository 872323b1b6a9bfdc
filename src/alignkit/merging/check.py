"""Whether the merged model answers as the adapter did: both loaded from disk, the same rows through each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from alignkit.errors import RunFailed, UserError
from alignkit.inspection.gather import gather
from alignkit.merging.weights import load_adapter_of, precision_of
from alignkit.models import load_result, save_result
from alignkit.report.card import write_card

if TYPE_CHECKING:
    from alignkit.merging.plan import Plan

ROWS, LONGEST = 16, 128  # what is compared: 2,048 places of the vocabulary at most, a few hundred MB of logits
TOLERANCE = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (0.0, 0.1), torch.float16: (0.0, 0.02)}
"""Greatest difference of two logits that rounding explains: (absolute, share of the largest logit), the larger of the
two. A weight is rounded by at most 2^-24, 2^-8 or 2^-11 of its size, and the errors of a few dozen layers add up."""

Rows = list[list[int]]


@dataclass(frozen=True)
class Difference:
    """How far two models' logits are apart."""

    greatest: float
    largest_logit: float
    same_first_choice: float  # share of places


def compared(plan: Plan, merged: tuple[Any, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Save the merged model, load it afresh, compare it with the adapter, and put it in its place.

    Raises:
        RunFailed: it differs by more than rounding explains, or is not finite; nothing is left behind.
    """
    (model, tokenizer), aside = merged, plan.out.with_name(plan.out.name + ".unchecked")
    dtype = model.dtype
    try:
        say("writing the merged model")
        save_result(model, tokenizer, aside, max_shard_size=plan.max_shard_size)
        del model, merged
        rows, rows_from = probe_rows(plan, tokenizer, say)
        say("comparing it with the adapter")
        reference = logits_of(load_adapter_of(plan)[0], rows)
        again = logits_of(load_result(aside, precision_of(plan), plan.head)[0], rows)
        found = difference(reference, again)
        absolute, share = TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])
        allowed = max(absolute, share * found.largest_logit)
        if not found.greatest <= allowed:  # also where it is no number
            raise RunFailed(
                f"the merged model differs from the adapter: greatest logit difference {found.greatest:.3g} on "
                f"{len(rows)} {rows_from}, where rounding to {_name(dtype)} explains {allowed:.2g}; nothing was kept"
            )
        if plan.run is not None:
            write_card(plan.run, aside)
        if plan.out.exists():
            shutil.rmtree(plan.out)
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(plan.out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    files = sorted(plan.out.glob("*.safetensors"))
    return {
        "model": str(plan.out),
        "adapter": str(plan.adapter.path),
        "base": plan.base,
        "dtype": _name(dtype),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "rows": len(rows),
        "rows_from": rows_from,
        "tokens": sum(map(len, rows)),
        "greatest_difference": found.greatest,
        "allowed": allowed,
        "largest_logit": found.largest_logit,
        "same_first_choice": found.same_first_choice,
        "notes": list(plan.notes),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------- rows
def probe_rows(plan: Plan, tokenizer: Any, say: Callable[[str], None]) -> tuple[Rows, str]:
    """Token sequences to compare on, and what they are: the run's eval rows, else its training rows, else random."""
    recipe = plan.recipe
    if recipe is not None and recipe.data is not None and not recipe.data.streaming:
        for split in ("eval", "train"):
            try:
                shown = gather(recipe, ROWS, split, say).shown
            except UserError:  # no such split, or data that is no longer there
                continue
            rows = [[token.id for part in one.parts for token in part.tokens][:LONGEST] for one in shown]
            if rows := [row for row in rows if row]:
                return rows, "held-out rows" if split == "eval" else "training rows"
    generator = torch.Generator().manual_seed(0)
    return torch.randint(len(tokenizer), (ROWS, 64), generator=generator).tolist(), "rows of random tokens"


# ---------------------------------------------------------------------- logits
@torch.inference_mode()
def logits_of(model: Any, rows: Rows) -> list[torch.Tensor]:
    """The logits of each row alone, float32 on the CPU: (T, V) of a language model, (1, C) of a classifier."""
    device = model.get_input_embeddings().weight.device
    model.eval()
    return [model(input_ids=torch.tensor([row], device=device)).logits[0].float().cpu() for row in rows]


def difference(left: list[torch.Tensor], right: list[torch.Tensor]) -> Difference:
    """How far two models' logits of the same rows are apart."""
    one, other = (torch.cat([logits.reshape(-1, logits.shape[-1]) for logits in side]) for side in (left, right))
    return Difference(
        greatest=float((one - other).abs().max()),
        largest_logit=float(one.abs().max()),
        same_first_choice=float((one.argmax(-1) == other.argmax(-1)).float().mean()),
    )
