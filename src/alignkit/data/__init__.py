"""Sources -> examples -> rendered, masked, counted tokens."""

from alignkit.data.collate import PackedRows
from alignkit.data.exactness import packing_leak, require_exact_packing
from alignkit.data.heads import LabelledPrepared, prepare_labelled
from alignkit.data.pairs import PairRenderer, PairSettings, prepare_pairs
from alignkit.data.prepare import Prepared, Settings, prepare, prepare_language_modeling
from alignkit.data.prompts import as_sample, encode_prompt, prepare_prompts, prompt_text
from alignkit.data.render import Rendered, Renderer, Renders
from alignkit.data.rows import RenderedRow, RowStore
from alignkit.data.templates import ChatTemplate, MaskingInfo

__all__ = [
    "ChatTemplate",
    "LabelledPrepared",
    "MaskingInfo",
    "PackedRows",
    "PairRenderer",
    "PairSettings",
    "Prepared",
    "Rendered",
    "RenderedRow",
    "Renderer",
    "Renders",
    "RowStore",
    "Settings",
    "as_sample",
    "encode_prompt",
    "packing_leak",
    "prepare",
    "prepare_labelled",
    "prepare_language_modeling",
    "prepare_pairs",
    "prepare_prompts",
    "prompt_text",
    "require_exact_packing",
]
