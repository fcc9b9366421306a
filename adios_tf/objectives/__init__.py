"""The distance between views: one file per objective, registered by name."""

from adios_tf.objectives.base import (
    CLEAN1,
    CLEAN2,
    OBJECTIVES,
    Embedding,
    MomentumObjective,
    Objective,
    Pair,
    View,
)
from adios_tf.objectives.byol import BYOL
from adios_tf.objectives.moco import MoCo
from adios_tf.objectives.simclr import SimCLR
from adios_tf.objectives.simsiam import SimSiam

__all__ = [
    "BYOL",
    "CLEAN1",
    "CLEAN2",
    "OBJECTIVES",
    "Embedding",
    "MoCo",
    "MomentumObjective",
    "Objective",
    "Pair",
    "SimCLR",
    "SimSiam",
    "View",
]
