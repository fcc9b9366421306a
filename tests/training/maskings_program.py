"""Trains every case of `test_replicas_maskings` on a number of logical devices (run by that test).

Arguments: number of devices, output file.
"""

import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from adios_tf.encoders import BACKBONES
from adios_tf.training.build import build_pretrainer
from adios_tf.training.config import PretrainConfig

SIDE, BATCH, STEPS = 16, 4, 3
CASES = {
    "queue and two mixtures": {
        "objective": "moco",
        "masking": "unmix_blocks",
        "fill": "mix",
        "per_image": True,
        "partner": "random",
    },
    "sequential, noise": {"objective": "simclr", "masking": "sequential_one", "fill": "noise"},
    "objects of others": {"objective": "simclr", "masking": "objects", "object_shuffle": True},
}
CONFIG = PretrainConfig(
    backbone="test_replicas",
    image_size=SIDE,
    batch_size=BATCH,
    hidden_dim=8,
    output_dim=4,
    predictor_dim=4,
    queue_size=6,
    num_masks=2,
    masker_base=4,
    masker_blocks=2,
    masker_norm="no",
    grid_size=4,
    optimizer="sgd",
    learning_rate=0.05,
    masker_learning_rate=0.5,
    schedule="constant",
)


@BACKBONES.register("test_replicas", "one convolution, for a test")
def tiny_backbone(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True)(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def data():
    draw = np.random.default_rng(3)
    views = draw.normal(size=(2, STEPS, BATCH, SIDE, SIDE, 3)).astype("float32")
    # A mean per image, so that replicas see different statistics.
    views += draw.normal(size=(2, STEPS, BATCH, 1, 1, 3)).astype("float32")
    truth = draw.integers(0, 4, size=(2, STEPS, BATCH, SIDE, SIDE)).astype("int32")
    parts = {f"view{n + 1}": views[n] for n in range(2)}
    parts |= {f"mask{n + 1}": truth[n] for n in range(2)}
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices(parts).with_options(options)


def main(devices, output):
    # Rounding grows with every step, and would hide a real difference in float32.
    keras.config.set_floatx("float64")
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
    tf.config.set_logical_device_configuration(cpu, logical)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(int(devices))])
    result = {}
    for case, settings in CASES.items():
        with strategy.scope():
            model = build_pretrainer(dataclasses.replace(CONFIG, **settings), STEPS, None)
        before = [v.numpy() for v in model.variables]
        history = model.fit(data(), verbose=0, shuffle=False)
        means = {id(v) for metric in model.metrics for v in metric.variables}
        for n, (v, old) in enumerate(zip(model.variables, before, strict=True)):
            if id(v) not in means:
                result[f"{case}|{n:03d} {v.path}"] = v.numpy()
                result[f"{case}|moved {n:03d} {v.path}"] = np.abs(v.numpy() - old).max()
        result |= {f"{case}|log {k}": np.float32(v[-1]) for k, v in history.history.items()}
    np.savez(output, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
