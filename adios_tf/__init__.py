"""Adversarial masking for self-supervised learning in Keras 3 / TensorFlow.

The public names, each loaded when it is first asked for:

    model = adios_tf.load(run)     # .features(images), .masks(images); a Keras layer as well
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AugmentConfig": "adios_tf.data",
    "PretrainConfig": "adios_tf.training.config",
    "PretrainedModel": "adios_tf.pretrained",
    "Pretrainer": "adios_tf.training.pretrainer",
    "UserError": "adios_tf.errors",
    "augment": "adios_tf.data",
    "build_encoder": "adios_tf.encoders",
    "build_masking": "adios_tf.training.build",
    "build_objective": "adios_tf.training.build",
    "build_predictor": "adios_tf.nets",
    "build_pretrainer": "adios_tf.training.build",
    "build_projector": "adios_tf.nets",
    "build_unet": "adios_tf.nets",
    "evaluate": "adios_tf.evaluation.runner",
    "export_run": "adios_tf.exporting.export_run",
    "import_torch": "adios_tf.exporting.torch_import",
    "load": "adios_tf.pretrained",
    "pretrain": "adios_tf.training.run",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'adios_tf' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
