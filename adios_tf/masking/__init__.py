"""What is hidden, and what covers the hole: one file per policy, registered by name."""

from adios_tf.masking.adversarial import Adversarial, AdversarialOne
from adios_tf.masking.base import MASKINGS, Masking, NoMasking
from adios_tf.masking.fill import FILLS, Blur, Erase, Fill, Filled, Mean, Noise, Paint
from adios_tf.masking.grid import Blocks, Cells
from adios_tf.masking.mix import Mix
from adios_tf.masking.mscn import MSCN
from adios_tf.masking.objects import Objects
from adios_tf.masking.patches import Patches, Rectangles
from adios_tf.masking.penalties import coverage, entropy, sparsity
from adios_tf.masking.sequential import SequentialMasking, SequentialOne
from adios_tf.masking.unmix import UnMix, UnMixBlocks

__all__ = [
    "FILLS",
    "MASKINGS",
    "MSCN",
    "Adversarial",
    "AdversarialOne",
    "Blocks",
    "Blur",
    "Cells",
    "Erase",
    "Fill",
    "Filled",
    "Masking",
    "Mean",
    "Mix",
    "NoMasking",
    "Noise",
    "Objects",
    "Paint",
    "Patches",
    "Rectangles",
    "SequentialMasking",
    "SequentialOne",
    "UnMix",
    "UnMixBlocks",
    "coverage",
    "entropy",
    "sparsity",
]
