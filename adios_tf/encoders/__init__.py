"""Encoders: by name from a table of families, or a Keras model of the user's own."""

from adios_tf import lazy

_HOMES = {
    "BACKBONES": "adios_tf.encoders.builders:BACKBONES",
    "ClassTokenAndPositions": "adios_tf.encoders.vit:ClassTokenAndPositions",
    "as_encoder": "adios_tf.encoders.backbones:as_encoder",
    "build_encoder": "adios_tf.encoders.backbones:build_encoder",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, _HOMES)
