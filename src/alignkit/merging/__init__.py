"""`alignkit merge`: an adapter into its base, and the proof that the result answers as the adapter did.

The walk: `plan` says what is merged into what, from files alone; `weights` merges; `check` loads the result afresh and
compares its logits with the adapter's on held-out rows.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.console import Voice, logged_to, redirect_libraries
from alignkit.importing import importing
from alignkit.launch import set_environment

if TYPE_CHECKING:
    from alignkit.merging.plan import Plan


def merge(plan: Plan) -> dict[str, Any]:
    """Do what `plan` says: write the merged model, and return where it lies and how far it is from the adapter.

    Raises:
        UserError: what the user can mend, before anything is written.
        RunFailed: the result differs from the adapter by more than its number format explains; nothing is left behind.
    """
    set_environment()
    with logged_to(Path(os.devnull)), contextlib.closing(Voice()) as say:
        say("loading the libraries")
        with importing():
            from transformers.utils import logging as transformers_logging

            from alignkit.merging.check import compared
            from alignkit.merging.weights import merged_into

        redirect_libraries()
        transformers_logging.disable_progress_bar()
        return compared(plan, merged_into(plan, say), say)


def command(
    target: str,
    *,
    out: Path | None,
    base: str | None,
    dtype: str | None,
    max_shard_size: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Merge, compare, and print what came of it."""
    from alignkit.merging.plan import make_plan

    found = merge(make_plan(target, out, base, dtype, max_shard_size, overwrite))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"merged {found['adapter']} into {found['base']}: {found['dtype']}, "
        f"{found['files']} file{'s' if found['files'] != 1 else ''}, {found['bytes'] / 2**20:,.1f} MiB"
    )
    for line in found["notes"]:
        print(f"note: {line}")
    print(
        f"loaded afresh and compared with the adapter on {found['rows_from']} ({found['rows']:,}, "
        f"{found['tokens']:,} tokens): greatest logit difference {found['greatest_difference']:.2g} "
        f"(allowed: {found['allowed']:.2g}; largest logit {found['largest_logit']:.3g}), "
        f"same first choice for {found['same_first_choice']:.2%}"
    )
    print(f"model: {found['model']}")
