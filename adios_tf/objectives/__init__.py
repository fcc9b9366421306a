"""The distance between views: one file per objective, registered by name."""

from adios_tf.objectives.base import OBJECTIVES, Embedding, MomentumObjective, Objective, Pair
from adios_tf.objectives.byol import BYOL
from adios_tf.objectives.moco import MoCo
from adios_tf.objectives.simclr import SimCLR
from adios_tf.objectives.simsiam import SimSiam

__all__ = [
    "BYOL",
    "OBJECTIVES",
    "Embedding",
    "MoCo",
    "MomentumObjective",
    "Objective",
    "Pair",
    "SimCLR",
    "SimSiam",
]
