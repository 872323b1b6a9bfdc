"""PPO on two processes (DDP over gloo): what one process computes, and the same again after a resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ppo_parts import gradients, rollout, trainer


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_bitwise(tmp_path):
    for kind in ("model", "head", "trunk"):
        made = trainer(tmp_path / "one", critic_kind=kind, entropy_coef=0.01, max_completion_length=20)
        with torch.no_grad():
            made.model.lm_head.weight *= (
                4  # completions of different lengths, so that the processes' token counts differ
            )
        batch = rollout(made)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        state = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
        torch.save({"weights": state, "batch": batch, "gradients": gradients(made, [batch])}, tmp_path / f"{kind}.pt")
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         here / "ppo_two_processes.py", tmp_path],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("two processes agree") == 2
