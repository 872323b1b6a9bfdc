"""Tokenizer, base model, quantization and adapter: from a recipe's `model:` to a trainer, and back to disk."""

from alignkit.models.adapters import count_parameters, restore_adapter_dtype
from alignkit.models.build import build_model
from alignkit.models.precision import Precision, choose_precision
from alignkit.models.reference import Reference, build_reference
from alignkit.models.results import load_result, save_result
from alignkit.models.tokenizer import build_tokenizer, stop_token_ids

__all__ = [
    "Precision",
    "Reference",
    "build_model",
    "build_reference",
    "build_tokenizer",
    "choose_precision",
    "count_parameters",
    "load_result",
    "restore_adapter_dtype",
    "save_result",
    "stop_token_ids",
]
