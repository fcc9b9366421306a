"""A tiny world for whole runs: a folder, a TFDS data set with masks, an encoder from a plugin."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

PLUGIN = '''
"""A user's own encoder: one convolution."""
import keras
from adios_tf.encoders import BACKBONES

@BACKBONES.register("test_layer", "for tests of whole runs")
def one_convolution(name, image_size, in_channels, plan, *, width: int = 8):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(width, 4, strides=4, use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
'''


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 classes x 12 PNG files of 32 x 32 pixels, undivided."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for n in range(12):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{n:02d}.png")
    return root


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir that holds `mini`: 3 classes, 20 + 10 images of 16 pixels, object masks."""
    data_dir = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)

    def split(count: int) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": rng.integers(0, 256, (count, 16, 16, 3), np.uint8),
                "label": np.arange(count, dtype=np.int64) % 3,
                "mask": rng.integers(0, 3, (count, 16, 16, 1), np.uint8),
            }
        )

    features = {
        "image": tfds.features.Image(shape=(16, 16, 3)),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
        "mask": tfds.features.Image(shape=(16, 16, 1)),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mini",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": split(20), "test": split(10)},
        data_dir=data_dir,
        disable_shuffling=True,
    )
    return data_dir


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a module on the path that registers the encoder `test_layer`."""
    home = tmp_path_factory.mktemp("plugin")
    (home / "plugin_of_tests.py").write_text(PLUGIN)
    sys.path.insert(0, str(home))
    yield "plugin_of_tests"
    sys.path.remove(str(home))
