"""Did every weight of a checkpoint find its place? Where one did not, transformers only warns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.errors import UserError
from alignkit.models.upstream import Complain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignkit.recipe import Head

_log = logging.getLogger(__name__)
SHOWN = 3
MAY_BE_FRESH = "pooler"
"""The part of an encoder's trunk that many checkpoints lack: it was of no use to what they were trained for."""


def check_loaded(model: PreTrainedModel, found: Mapping[str, Any], head: Head, where: str, complain: Complain) -> None:
    """Refuse a checkpoint without weights that no head is there to learn, and warn of weights that are not used.

    `found` is what `from_pretrained(output_loading_info=True)` tells. A classifier's own head may be missing, since it
    is what will be trained; of the trunk only its pooler may.
    """
    trunk = f"{model.base_model_prefix}."
    missing = [name for name in sorted(found["missing_keys"]) if head == "causal_lm" or name.startswith(trunk)]
    missing = [name for name in missing if head == "causal_lm" or MAY_BE_FRESH not in name.split(".")]
    unused = [name for name in sorted(found["unexpected_keys"]) if head == "causal_lm" or name.startswith(trunk)]
    if missing:
        of = len(model.state_dict())
        what = f"{where} lacks {len(missing)} of the model's {of} weights: {_some(missing)}; they would be random"
        hint = f"it holds weights that the model has not: {_some(unused)}" if unused else None
        raise UserError(complain(None, what, hint))
    if unused:
        _log.warning("%s holds %d weights that the model does not use: %s", where, len(unused), _some(unused))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
