"""What a model's folder or name stands for, and what is wrong with it, without torch: the standard library is enough.

Three kinds of folder name a model: a full model, an adapter (with its base elsewhere), and a finished alignkit run,
whose result is its `model/` folder. `check_model` finds, before torch is imported, everything about a recipe's model
that the files alone can tell.
"""

from alignkit.model_folders.check import check_model
from alignkit.model_folders.fingerprint import tokenizer_files_fingerprint, weights_fingerprint
from alignkit.model_folders.folders import (
    BASE,
    HEADS,
    ModelFolder,
    describe_folder,
    find_template,
    has_tokenizer,
    head_of,
    labels_in_adapter,
    safetensors_problem,
)
from alignkit.model_folders.names import (
    PACKAGED,
    TOKENIZERS,
    cached_snapshot,
    hub_offline,
    is_hub_id,
    model_place,
    nowhere,
    result_folder,
    start_of,
)

__all__ = [
    "BASE",
    "HEADS",
    "PACKAGED",
    "TOKENIZERS",
    "ModelFolder",
    "cached_snapshot",
    "check_model",
    "describe_folder",
    "find_template",
    "has_tokenizer",
    "head_of",
    "hub_offline",
    "is_hub_id",
    "labels_in_adapter",
    "model_place",
    "nowhere",
    "result_folder",
    "safetensors_problem",
    "start_of",
    "tokenizer_files_fingerprint",
    "weights_fingerprint",
]
