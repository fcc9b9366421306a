"""Where images come from, and how two views are made of one."""

from adios_tf.data.augment import AugmentConfig, augment
from adios_tf.data.catalog import CATALOG, DatasetInfo, describe
from adios_tf.data.geometry import evaluation_transform, normalize
from adios_tf.data.pipeline import (
    evaluation_dataset,
    pretrain_dataset,
    throughput,
    views_from_images,
)
from adios_tf.data.shapes import Shapes
from adios_tf.data.sources import Examples, load_examples

__all__ = [
    "CATALOG",
    "AugmentConfig",
    "DatasetInfo",
    "Examples",
    "Shapes",
    "augment",
    "describe",
    "evaluation_dataset",
    "evaluation_transform",
    "load_examples",
    "normalize",
    "pretrain_dataset",
    "throughput",
    "views_from_images",
]
