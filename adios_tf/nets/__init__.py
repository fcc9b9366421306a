"""The networks around the encoder: heads, and the masker's U-Net."""

from adios_tf.nets.heads import HEADS, build_head, build_predictor, build_projector, has_predictor
from adios_tf.nets.unet import build_unet, default_num_blocks

__all__ = [
    "HEADS",
    "build_head",
    "build_predictor",
    "build_projector",
    "build_unet",
    "default_num_blocks",
    "has_predictor",
]
