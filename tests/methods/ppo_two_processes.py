"""Run by test_ppo_distributed.py in two processes: PPO under DDP, over gloo."""

import faulthandler
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from ppo_parts import trainer, weights
from torch.nn.parallel import DistributedDataParallel

faulthandler.dump_traceback_later(240, exit=True)
folder = Path(sys.argv[1])


def same_gradients(kind):
    """Half of a batch on each process gives the gradient that one process gets from all of it."""
    made = trainer(folder / kind, critic_kind=kind, per_device_train_batch_size=4, entropy_coef=0.01)
    whole = torch.load(folder / f"{kind}.pt", weights_only=False)
    made.model.load_state_dict(whole["weights"])
    rank = made.accelerator.process_index
    half = {key: v[4 * rank : 4 * rank + 4] if v.ndim else v for key, v in whole["batch"].items()}
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    wrapped = made.accelerator.prepare_model(made.model)
    assert isinstance(wrapped, DistributedDataParallel)
    made.model.zero_grad()
    made._compute_loss(wrapped, half).backward()
    found = torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, whole["gradients"], atol=1e-5, rtol=1e-4)


def train(name, kind, **settings):
    return trainer(
        folder / name, critic_kind=kind, per_device_train_batch_size=2, steps_per_generation=2, num_iterations=2,
        max_steps=5, kl_target=1.0, normalize_scores=True, **settings,
    )  # fmt: skip


for kind in ("model", "head", "trunk"):
    same_gradients(kind)
for kind in ("model", "head"):
    whole = train(kind, kind, save_strategy="steps", save_steps=2)
    whole.train()
    again = train(f"{kind}-again", kind)
    again.train(resume_from_checkpoint=str(folder / kind / "checkpoint-2"))
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first), "a resumed run differs"
    sums = gather_object([float(sum(p.double().sum() for p in whole.model.parameters()))])
    assert sums[0] == sums[1], "the processes hold different weights"
    assert whole.running_scores.count == 8 * 2 and gather_object([whole.kl_controller.coefficient])[0] == (
        whole.kl_controller.coefficient
    )
print("two processes agree")
