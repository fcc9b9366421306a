"""What is hidden, and what covers the hole: one file per policy, registered by name."""

from adios_tf.masking.adversarial import Adversarial, AdversarialOne
from adios_tf.masking.base import MASKINGS, Masking, NoMasking
from adios_tf.masking.fill import FILLS, Erase, Fill, Filled
from adios_tf.masking.grid import Blocks, Cells
from adios_tf.masking.mix import Mix

__all__ = [
    "FILLS",
    "MASKINGS",
    "Adversarial",
    "AdversarialOne",
    "Blocks",
    "Cells",
    "Erase",
    "Fill",
    "Filled",
    "Masking",
    "Mix",
    "NoMasking",
]
