"""Every objective x masking, stopped twice and resumed, equals one that never stopped.

Compared is everything that a checkpoint holds, bit for bit. The first stop lies inside an epoch,
the second at its end. Data order and what is written around the steps: tests/faults/test_resume.py.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.encoders import BACKBONES
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.training import checkpoints
from adios_tf.training.build import build_pretrainer
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig

SIDE, BATCH = 16, 4
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
    patch_size=4,
    learning_rate=0.1,
    epochs=20,
)
OFTEN = {  # queue, EMA copies, a masker and its optimizer, a predictor; the others are slow
    ("moco", "unmix_blocks"),
    ("byol", "sequential_one"),
    ("simsiam", "objects"),
}


@BACKBONES.register("test_resume", "one convolution, for a test")
def tiny_backbone(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x)))


def own(registry):
    """The package's components, without those that other tests register."""
    return [name for name in registry if registry[name].__module__.startswith("adios_tf.")]


def methods():
    """Every objective with every masking, and in turn the fills that the masking takes."""
    for number, pair in enumerate(itertools.product(own(OBJECTIVES), own(MASKINGS))):
        masking = MASKINGS[pair[1]]
        fills = (masking.fills or own(FILLS)) if masking.num_masks else ["erase"]
        marks = () if pair in OFTEN else pytest.mark.slow
        method = {"objective": pair[0], "masking": pair[1], "fill": fills[number % len(fills)]}
        yield pytest.param(method, marks=marks, id="-".join(method.values()))


def build(method):
    settings = method | {"step_embedding": True, "symmetric": True, "optimizer": "adamw"}
    model = build_pretrainer(dataclasses.replace(CONFIG, **settings), 3, 2)
    model.run_eagerly = True
    return model


def batch(step):
    draw = np.random.default_rng(step)
    views = draw.normal(size=(2, BATCH, SIDE, SIDE, 3))
    truth = draw.integers(0, 3, size=(2, BATCH, SIDE, SIDE))
    parts = {f"view{n + 1}": tf.constant(views[n], tf.float32) for n in range(2)}
    parts |= {f"mask{n + 1}": tf.constant(truth[n], tf.int32) for n in range(2)}
    return parts | {"label": tf.constant(draw.integers(0, 2, BATCH))}


def state(model):
    return {name: variable.numpy() for name, variable in checkpoints._state(model).items()}


@pytest.mark.parametrize("method", methods())
def test_two_resumes_equal_none(method, tmp_path):
    whole, stopped, states = build(method), build(method), []
    for step in range(5):
        whole.train_step(batch(step))
        states.append(state(whole))
        if step in (2, 3):
            Checkpoints(tmp_path, stopped).save()
            stopped = build(method)
            for v in checkpoints._state(stopped).values():
                v.assign(tf.ones_like(v))  # what is not restored stands out
            assert Checkpoints(tmp_path, stopped).restore() == step
        stopped.train_step(batch(step))
    found = state(stopped)
    assert sum((states[3][name] != found[name]).any() for name in found) > 10  # it trained on
    assert found.keys() == states[-1].keys()
    for name, expected in states[-1].items():
        np.testing.assert_array_equal(expected, found[name], err_msg=name)
