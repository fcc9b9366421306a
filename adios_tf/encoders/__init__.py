"""Encoders: by name from a table of families, or a Keras model of the user's own."""

from adios_tf.encoders.backbones import as_encoder, build_encoder
from adios_tf.encoders.builders import BACKBONES
from adios_tf.encoders.vit import ClassTokenAndPositions

__all__ = ["BACKBONES", "ClassTokenAndPositions", "as_encoder", "build_encoder"]
