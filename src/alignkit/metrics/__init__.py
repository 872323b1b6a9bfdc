"""Metrics: small pure functions on strings and numbers, each returning a `Measurement` whose statistics add up."""

from alignkit.metrics.measurement import Measurement
from alignkit.metrics.registry import REGISTRY, Metric, expand, get, measure

__all__ = ["REGISTRY", "Measurement", "Metric", "expand", "get", "measure"]
