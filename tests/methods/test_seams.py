"""What alignkit changes in TRL and transformers: the private names are still there, and the numbers stay the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit.trainers.attention import NAME, attending_by_products
from alignkit.trainers.seams import project_supervised_positions_only


def test_trl_still_asks_triton_for_compact_heads(tiny_model: Path) -> None:
    from trl.trainer import utils
    from trl.trainer.utils import add_fused_lm_head

    upstream = utils._use_triton
    ids = torch.randint(3, 60, (3, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.6, -100)
    results = []
    try:
        for compact in (False, True):
            utils._use_triton = lambda _device, compact=compact: compact
            model = AutoModelForCausalLM.from_pretrained(tiny_model)
            add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
            # Inside the kernel's module the question is asked again, of another name: it stays a CPU's.
            out = model(input_ids=ids, labels=labels, fused_lm_head=True)
            out.loss.backward()
            results.append((out.loss.detach(), out.entropy.sum().detach(), model.lm_head.weight.grad.clone()))
    finally:
        utils._use_triton = upstream
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    project_supervised_positions_only()
    assert utils._use_triton(torch.device("cpu"))


def test_trl_still_asks_what_the_preference_trainers_answer() -> None:
    """The methods that they override, and the attributes that they read, are upstream's own."""
    import inspect

    import trl

    from alignkit.trainers.preference import PairsTrainer, UnpairedTrainer, WholePairsTrainer

    for ours, upstream, names in (
        (WholePairsTrainer, trl.RewardTrainer, ["_prepare_dataset"]),
        (PairsTrainer, trl.DPOTrainer, ["_prepare_dataset", "_precompute_ref_logps", "compute_ref_log_probs"]),
        (UnpairedTrainer, trl.KTOTrainer, ["_prepare_dataset"]),
    ):
        for name in names:
            assert name in vars(upstream), name
            mine = inspect.signature(getattr(ours, name)).parameters.values()
            assert len(inspect.signature(getattr(upstream, name)).parameters) == len(mine) or any(
                one.kind is one.VAR_POSITIONAL for one in mine
            ), name
    source = inspect.getsource(trl.DPOTrainer) + inspect.getsource(trl.KTOTrainer)
    for read in ("self.calculate_KL", 'self._metrics[mode]["', 'if "ref" in', "fused_lm_head=True"):
        assert read in source, read


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_products_is_sdpa(tiny_model: Path, masked: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="sdpa")
    ids = torch.randint(3, 60, (3, 24))
    mask = torch.ones_like(ids)
    if masked:
        mask[1, 15:] = 0
        mask[2, 9:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    grads = []
    for by_products in (False, True):
        twin = copy.deepcopy(model)
        if by_products:
            with attending_by_products(twin):
                assert twin.config._attn_implementation == NAME
                loss = twin(input_ids=ids, attention_mask=mask, labels=labels).loss
                loss.backward()
            assert twin.config._attn_implementation == "sdpa"
        else:
            loss = twin(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
        grads.append([loss.detach(), *(weight.grad for weight in twin.parameters())])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
