"""A tiny pretrained run that evaluation tests share."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from adios_tf import pretrained
from adios_tf.data.catalog import describe
from adios_tf.nets import build_unet


def tiny_encoder() -> keras.Model:
    """[B,32,32,3] -> [B,16], with BatchNorm whose statistics are not the initial ones."""
    keras.utils.set_random_seed(0)
    x = images = keras.Input((32, 32, 3))
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    noise = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32)
    for _ in range(20):
        model(noise, training=True)
    return model


def save_run(folder: Path, masker: bool = True, **info: object) -> Path:
    features = keras.Input((16,))
    projector = keras.Model(features, keras.layers.Dense(4)(features))
    facts = describe("shapes")
    known = {"dataset": "shapes", "image_size": 32, "mean": facts.mean, "std": facts.std}
    unet = build_unet(32, 3, base=8) if masker else None
    pretrained.save(folder / "model", known | info, tiny_encoder(), projector, unet)
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Writes such a run; keywords go into its info.json."""
    return save_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with encoder, projector and masker, pretrained (so it says) on shapes."""
    return save_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes x 20 images of different sizes, undivided."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for index in range(20):
            image = rng.integers(0, 120, (30 + index, 40, 3), np.uint8)
            image[..., 2 - label] += 100
            Image.fromarray(image).save(root / name / f"{index:02d}.png")
    return root
