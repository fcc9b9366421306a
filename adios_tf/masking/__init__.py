"""What is hidden, and what covers the hole: one file per policy, registered by name."""

from adios_tf.masking.adversarial import Adversarial, AdversarialOne
from adios_tf.masking.base import MASKINGS, Masking, NoMasking
from adios_tf.masking.fill import FILLS, Erase, Fill, Filled

__all__ = [
    "FILLS",
    "MASKINGS",
    "Adversarial",
    "AdversarialOne",
    "Erase",
    "Fill",
    "Filled",
    "Masking",
    "NoMasking",
]
