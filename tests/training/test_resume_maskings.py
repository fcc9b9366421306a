"""A run that is resumed equals one that never stopped: queue, mixtures, sequential masks."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.encoders import BACKBONES
from adios_tf.training.build import build_pretrainer
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig

SIDE, BATCH = 16, 4
CASES = {
    "queue, two mixtures": {"objective": "moco", "masking": "unmix_blocks", "fill": "mix"},
    "sequential, noise": {
        "objective": "byol",
        "masking": "sequential_one",
        "fill": "noise",
        "step_embedding": True,
    },
    "per color, symmetric": {"objective": "moco", "masking": "mscn", "symmetric": True},
}
CONFIG = PretrainConfig(
    backbone="test_resume",
    image_size=SIDE,
    batch_size=BATCH,
    hidden_dim=8,
    output_dim=4,
    predictor_dim=4,
    queue_size=10,
    num_masks=2,
    masker_base=4,
    masker_blocks=2,
    masker_norm="no",
    grid_size=4,
    learning_rate=0.1,
    epochs=20,
)


@BACKBONES.register("test_resume", "one convolution, for a test")
def tiny_backbone(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x)))


def build(settings):
    model = build_pretrainer(dataclasses.replace(CONFIG, **settings), 2, None)
    model.run_eagerly = True
    return model


def batch(step):
    views = np.random.default_rng(step).normal(size=(2, BATCH, SIDE, SIDE, 3))
    return {f"view{n + 1}": tf.constant(views[n], tf.float32) for n in range(2)}


def weights(model):
    means = {id(v) for metric in model.metrics for v in metric.variables}
    return {v.path: v.numpy() for v in model.variables if id(v) not in means}


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(case, tmp_path):
    model = build(CASES[case])
    for step in range(2):
        model.train_step(batch(step))
    Checkpoints(tmp_path, model).save()
    halfway = weights(model)
    model.train_step(batch(2))

    resumed = build(CASES[case] | {"seed": 0})
    for v in resumed.objective.variables:
        v.assign(tf.zeros_like(v))
    assert Checkpoints(tmp_path, resumed).restore() == 2
    resumed.train_step(batch(2))

    expected, found = weights(model), weights(resumed)
    assert any((expected[path] != halfway[path]).any() for path in expected)
    for a, b in zip(expected.values(), found.values(), strict=True):
        np.testing.assert_array_equal(a, b)
