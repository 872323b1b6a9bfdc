"""What is modelled of several GPUs, against two real processes under FSDP2, and against a count by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignkit import api
from alignkit.plan.run import planner
from alignkit.plan.sharding import shard
from alignkit.plan.simulate import PARTS, Phase, Timeline

SHAPE = {
    "model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
RANK = """
import json, sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM
dist.init_process_group("gloo")
mesh = dist.init_device_mesh("cpu", (2,))
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(sys.argv[1])))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters())
ids = torch.arange(32).reshape(2, 16)
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
def held(tensors):
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in local}.values())
parameters = list(model.parameters())
states = [value for state in optimizer.state.values() for value in state.values()]
found = {"weights": held(parameters), "gradients": held([p.grad for p in parameters]), "optimizer": held(states)}
if dist.get_rank() == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


def test_a_rank_under_fsdp2_holds_what_the_plan_says(
    tiny_recipe: dict[str, Any], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    tiny_recipe["model"]["config"] = SHAPE
    with planner(api.load_recipe(write_recipe(tiny_recipe)), "cpu") as made:
        made.plan()
        assert made.simulated is not None
        split = shard(made.simulated, "fsdp2", 2, SHAPE["num_hidden_layers"])
        config = {**made.start.config.to_dict(), "tie_word_embeddings": False}
    stepping = next(phase for phase in split.phases if phase.name == "optimizer").parts.max(axis=0)
    planned = dict(zip(PARTS, stepping, strict=True))
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, json.dumps(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for part, measured in json.loads(done.stdout.splitlines()[-1]).items():
        assert planned[part] == pytest.approx(measured, rel=0.05), part


@pytest.mark.parametrize(
    ("kind", "weights", "gradients", "optimizer", "temporaries"),
    [
        ("ddp", 1000, 1000, 2000, 10 + 1000),  # everything whole, and buckets as large as the gradients
        ("zero2", 1000, 250, 500, 10 + 100),  # a layer's gradients before they are shared out
        ("zero3", 250, 250, 500, 10 + 100 + 2 * 80 + 200),  # two layers and the embeddings gathered
    ],
)
def test_shares_by_hand(kind: str, weights: int, gradients: int, optimizer: int, temporaries: int) -> None:
    """Ten layers of 80 bytes and embeddings of 200 on four GPUs."""
    row = {"weights": 1000, "gradients": 1000, "optimizer": 2000, "activations": 70, "temporaries": 10}
    parts = np.asarray([[row.get(part, 0) for part in PARTS]], dtype=np.int64)
    whole = Timeline([Phase("backward", np.zeros(1), parts)], 0, 0, 0, 0, 1, (1, 1), layer_bytes=80)
    found = dict(zip(PARTS, shard(whole, kind, 4, 10).phases[0].parts[0], strict=True))
    assert found["activations"] == 70
    assert (found["weights"], found["gradients"]) == (weights, gradients)
    assert (found["optimizer"], found["temporaries"]) == (optimizer, temporaries)
