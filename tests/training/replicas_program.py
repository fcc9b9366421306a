"""Trains a few steps on a number of logical devices and saves what came out (run by a test).

Arguments: number of devices, objective, masking, update, optimizer, output file. With TF_CONFIG
set, it is one worker of several instead.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from adios_tf.masking import MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.optimizers import build_optimizer
from adios_tf.registry import construct
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.probe import Probe

SIDE, BATCH, STEPS = 16, 8, 3


def batch_norm():
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=True)


def encoder():
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
            batch_norm(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def masker(outputs, inputs=3):
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, inputs)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(outputs, 1),
        ]
    )


def build(objective, masking, update, optimizer, **settings):
    settings = {
        "hidden_dim": 16,
        "output_dim": 8,
        "predictor_dim": 8,
        "temperature": 0.2,
        "num_masks": 3,
        "queue_size": 32,
        "total_steps": 10,
        **settings,
    }
    fill = settings.pop("fill", "erase")
    policy = MASKINGS[masking]
    trained = {}
    if policy.trains:
        trained["masker"] = masker(policy.masker_outputs(3), policy.masker_inputs)
    model = Pretrainer(
        construct(OBJECTIVES[objective], settings, encoder=encoder()),
        construct(policy, settings, **trained),
        fill=fill,
        update=update,
        probe=Probe(8, 3),
        seed=5,
    )
    model.compile(
        build_optimizer(optimizer, 0.05, weight_decay=1e-3),
        build_optimizer(optimizer, 0.05, weight_decay=1e-3) if policy.trains else None,
    )
    return model


def data():
    draw = np.random.default_rng(3)
    views = draw.normal(size=(2, STEPS, BATCH, SIDE, SIDE, 3)).astype(keras.config.floatx())
    # A mean per image, so that replicas see different statistics.
    views += draw.normal(size=(2, STEPS, BATCH, 1, 1, 3)).astype(keras.config.floatx())
    labels = draw.integers(0, 3, size=(STEPS, BATCH))
    truth = draw.integers(0, 4, size=(2, STEPS, BATCH, SIDE, SIDE)).astype("int32")
    parts = {"view1": views[0], "view2": views[1], "label": labels}
    parts |= {"mask1": truth[0], "mask2": truth[1]}
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices(parts).with_options(options)


def main(devices, objective, masking, update, optimizer, output, fill="erase"):
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
        tf.config.set_logical_device_configuration(cpu, logical)
        names = [f"CPU:{n}" for n in range(int(devices))]
        strategy = tf.distribute.MirroredStrategy(names)
    keras.config.set_floatx("float64")  # so that rounding is far below what is compared
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = build(objective, masking, update, optimizer, fill=fill)
    history = model.fit(data(), epochs=1, verbose=0, shuffle=False)
    means = {id(v) for metric in model.metrics for v in metric.variables}
    weights = [v for v in model.variables if id(v) not in means]
    weights += [v for v in model.optimizer.variables if "learning_rate" not in v.path]
    result = {f"{n:03d} {v.path}": v.numpy() for n, v in enumerate(weights)}
    result |= {f"log {k}": np.float32(v[-1]) for k, v in history.history.items()}
    np.savez(output, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
