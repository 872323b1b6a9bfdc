"""What TRL's trainers lack and what every trainer here shares: arguments, guards, order, checkpoints, progress."""

from alignkit.trainers.arguments import build_arguments
from alignkit.trainers.guards import guarded
from alignkit.trainers.progress import MetricsFile, Progress
from alignkit.trainers.signals import StopRequests

__all__ = ["MetricsFile", "Progress", "StopRequests", "build_arguments", "guarded"]
