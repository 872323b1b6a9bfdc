"""Rewards: built-in functions, a user's own, reward models and judges, each kept from harming the run.

This package's `__init__`, `functions/`, `checks` and `process` import no torch: a worker process starts in a moment.
"""

from alignkit.rewards.call import Call, Failure, text_of

__all__ = ["Call", "Failure", "text_of"]
