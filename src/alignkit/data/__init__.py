"""Sources -> examples -> rendered, masked, counted tokens."""

from alignkit.data.prepare import Prepared, prepare_language_modeling
from alignkit.data.render import Rendered, Renderer
from alignkit.data.templates import ChatTemplate, MaskingInfo

__all__ = ["ChatTemplate", "MaskingInfo", "Prepared", "Rendered", "Renderer", "prepare_language_modeling"]
