"""The campaign's bounded part: `make test-faults` tries everything on every method."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.faults.campaign import campaign, can_mount
from tests.faults.cases import cases

DAMAGE = ("kill in a step", "kill in a save", "truncated", "bit flipped")
DISK = ("full disk", "read-only")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "faults", "kills"),
    [
        ("sft, streaming", (*DAMAGE, *(DISK if can_mount() else ())), 2),  # twelve steps go past the stream's end
        ("grpo", ("kill in a step", "kill in a save"), 2),  # rollouts reused, difficulty, past the first epoch
        # Two processes past the first epoch, whose order upstream would go on with.
        ("classify", ("kill in a step, 2 processes", "kill in a save, 2 processes"), 2),
    ],
)
def test_a_run_survives(name: str, faults: tuple[str, ...], kills: int, tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    tally = campaign(name, cases(tmp_path)[name], tmp_path / "case", kills=kills, faults=faults)
    assert tally.failures == []
    assert tally.tried, "no run was killed before it ended"
