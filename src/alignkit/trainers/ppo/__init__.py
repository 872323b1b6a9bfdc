"""PPO for language models, on TRL's current trainers: `PPOConfig` and `PPOTrainer`, usable without a recipe.

    from alignkit.trainers.ppo import PPOConfig, PPOTrainer

The arithmetic stands in `advantages`, as pure functions; what is done with a rollout in `rollout`; the critics in
`critics`; the names of TRL that are not public in `seams`.
"""

from alignkit.trainers.ppo.config import PPOConfig
from alignkit.trainers.ppo.critics import Critic, HeadCritic, ModelCritic, TrunkCritic, load_critic, save_critic
from alignkit.trainers.ppo.trainer import PPOTrainer

__all__ = [
    "Critic",
    "HeadCritic",
    "ModelCritic",
    "PPOConfig",
    "PPOTrainer",
    "TrunkCritic",
    "load_critic",
    "save_critic",
]
