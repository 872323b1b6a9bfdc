"""Evaluation of a model in memory: tasks -> scores.json, samples.jsonl, documents.jsonl."""

from alignkit.evaluation.run import evaluate_run, evaluate_target
from alignkit.evaluation.scores import write_scores
from alignkit.evaluation.tasks import TASKS, evaluate_tasks

__all__ = ["TASKS", "evaluate_run", "evaluate_target", "evaluate_tasks", "write_scores"]
