"""What the libraries say while a run works: all of it in the log, what concerns a user in the report."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from alignkit.console import logged_to


def test_warnings_that_no_user_can_act_on_stay_in_the_log(tmp_path: Path) -> None:
    with logged_to(tmp_path / "log.txt") as collected, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning, stacklevel=1)
        logging.getLogger("bitsandbytes").warning("Failed to load CPU gemm_4bit_forward from kernels-community: none")
        logging.getLogger("peft").warning("\x1b[1mLlamaModel LOAD REPORT\x1b[0m from: here\nscore.weight | MISSING")
        logging.getLogger("peft").warning("something  is\n\x1b[31mwrong\x1b[0m")
        logging.getLogger("peft").warning("something is wrong")
    assert collected.messages == ["something is wrong"]
    log = (tmp_path / "log.txt").read_text()
    assert all(word in log for word in ("gradient_checkpointing", "gemm_4bit_forward", "score.weight"))
    assert "\x1b" not in log
