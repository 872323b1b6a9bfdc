"""Sources -> examples -> rendered, masked, counted tokens."""

from alignkit.data.collate import PackedRows
from alignkit.data.exactness import packing_leak, require_exact_packing
from alignkit.data.prepare import Prepared, prepare_language_modeling
from alignkit.data.render import Rendered, Renderer
from alignkit.data.templates import ChatTemplate, MaskingInfo

__all__ = [
    "ChatTemplate",
    "MaskingInfo",
    "PackedRows",
    "Prepared",
    "Rendered",
    "Renderer",
    "packing_leak",
    "prepare_language_modeling",
    "require_exact_packing",
]
