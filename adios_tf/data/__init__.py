"""Where images come from, and how two views are made of one."""

from adios_tf import lazy

_HOMES = {
    "AugmentConfig": "adios_tf.data.augmentation:AugmentConfig",
    "CATALOG": "adios_tf.data.catalog:CATALOG",
    "DatasetInfo": "adios_tf.data.catalog:DatasetInfo",
    "Examples": "adios_tf.data.sources:Examples",
    "Shapes": "adios_tf.data.shapes:Shapes",
    "augment": "adios_tf.data.augmentation:augment",
    "describe": "adios_tf.data.catalog:describe",
    "evaluation_dataset": "adios_tf.data.pipeline:evaluation_dataset",
    "evaluation_transform": "adios_tf.data.geometry:evaluation_transform",
    "load_examples": "adios_tf.data.sources:load_examples",
    "normalize": "adios_tf.data.geometry:normalize",
    "pretrain_dataset": "adios_tf.data.pipeline:pretrain_dataset",
    "throughput": "adios_tf.data.pipeline:throughput",
    "views_from_images": "adios_tf.data.pipeline:views_from_images",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, _HOMES)
