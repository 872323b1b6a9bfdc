"""Recipes: YAML in; out comes one typed, frozen, strict object, or every problem with its file and line."""

from alignkit.recipe.base import InputPath, Section, UpstreamSection
from alignkit.recipe.load import dump, load, load_mapping
from alignkit.recipe.paths import local_path
from alignkit.recipe.recipe import EVALUATION_ONLY, EvaluationRecipe, Head, Recipe, ReferenceRecipe
from alignkit.recipe.rewards import CriticSection, OnlineRecipe, OnlineTraining, RewardSection
from alignkit.recipe.sections import (
    AdapterSection,
    DataSection,
    EndpointSection,
    EvaluationTask,
    JudgeSection,
    ModelSection,
    QuantizationSection,
    Source,
    TrainingSection,
)

__all__ = [
    "EVALUATION_ONLY",
    "AdapterSection",
    "CriticSection",
    "DataSection",
    "EndpointSection",
    "EvaluationRecipe",
    "EvaluationTask",
    "Head",
    "InputPath",
    "JudgeSection",
    "ModelSection",
    "OnlineRecipe",
    "OnlineTraining",
    "QuantizationSection",
    "Recipe",
    "ReferenceRecipe",
    "RewardSection",
    "Section",
    "Source",
    "TrainingSection",
    "UpstreamSection",
    "dump",
    "load",
    "load_mapping",
    "local_path",
]
