"""Adversarial masking for self-supervised learning in Keras 3 / TensorFlow.

Everything public is reached from here, and loaded when it is first asked for:

    adios_tf.pretrain, evaluate, export, import_torch   what the programs do
    adios_tf.load            what a run left behind, as a Keras model
    adios_tf.Pretrainer      the Keras model that trains encoder and masker
    adios_tf.objectives      SimCLR, BYOL, SimSiam, MoCo: distances between views, with their state
    adios_tf.masking         what is hidden (Adversarial, Blocks, ...) and what fills the hole
    adios_tf.encoders        by name, or a Keras model of your own
    adios_tf.nets            projectors, predictors, the masker's U-Net
    adios_tf.losses          NTXent, InfoNCE, ... as `keras.losses.Loss`
    adios_tf.optimizers      SGD, LARS, AdamW as the papers use them; adios_tf.schedules
    adios_tf.data            data sets and pairs of views

Keras files that hold classes of this package load after `import adios_tf`.
"""

from adios_tf import lazy, serialization

__version__ = "0.1.0"

_HOMES = {
    "PretrainConfig": "adios_tf.training.config:PretrainConfig",
    "PretrainedModel": "adios_tf.pretrained:PretrainedModel",
    "Pretrainer": "adios_tf.training.pretrainer:Pretrainer",
    "Probe": "adios_tf.training.probe:Probe",
    "UserError": "adios_tf.errors:UserError",
    "Run": "adios_tf.api:Run",
    "evaluate": "adios_tf.api:evaluate",
    "export": "adios_tf.api:export",
    "import_torch": "adios_tf.exporting.torch_import:import_torch",
    "load": "adios_tf.pretrained:load",
    "pretrain": "adios_tf.api:pretrain",
}
_MODULES = ("data", "distribution", "encoders", "evaluation", "losses", "masking", "nets")
_MODULES += ("objectives", "optimizers", "schedules")
_HOMES |= {name: f"adios_tf.{name}" for name in _MODULES}

__getattr__, __dir__, __all__ = lazy.attach(__name__, _HOMES)

serialization.register_with_keras()
