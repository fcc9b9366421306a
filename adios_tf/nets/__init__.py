"""What is trained: encoders, heads and the masker."""

from adios_tf.nets.backbones import as_encoder, build_backbone
from adios_tf.nets.builders import BACKBONES
from adios_tf.nets.heads import (
    HEADS,
    build_head,
    build_predictor,
    build_projector,
    has_predictor,
)
from adios_tf.nets.unet import build_unet, default_num_blocks
from adios_tf.nets.vit import ClassTokenAndPositions

__all__ = [
    "BACKBONES",
    "HEADS",
    "ClassTokenAndPositions",
    "as_encoder",
    "build_backbone",
    "build_head",
    "build_predictor",
    "build_projector",
    "build_unet",
    "default_num_blocks",
    "has_predictor",
]
