"""Trains every case for a few steps on a number of logical devices and saves what came out.

Run by a test. Arguments: number of devices, file of cases {name: arguments of `build`}, output
file. With TF_CONFIG set, it is one worker of several instead.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from adios_tf.masking import FILLS, MASKINGS
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
        ],
        name="encoder",
    )


def masker(outputs, inputs=3):
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, inputs)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(outputs, 1),
        ],
        name="masker",
    )


def build(objective, masking, update, optimizer, **settings):
    settings = {
        "hidden_dim": 16,
        "output_dim": 8,
        "predictor_dim": 8,
        "temperature": 0.2,
        "num_masks": 3,
        "queue_size": 12,  # so that it comes round
        "grid_size": 4,
        "patch_size": 4,
        "total_steps": 10,
        **settings,
    }
    fill = construct(FILLS[settings.pop("fill", "erase")], settings)
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


def train(strategy, case):
    """{variable or log: value} after three steps, and how far the weights moved."""
    keras.utils.clear_session(free_memory=False)  # names that do not depend on earlier cases
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = build(**case)
    before = {id(v): v.numpy() for v in model.trainable_variables}
    history = model.fit(data(), epochs=1, verbose=0, shuffle=False)
    means = {id(v) for metric in model.metrics for v in metric.variables}
    weights = [v for v in model.variables if id(v) not in means]
    weights += [v for v in model.optimizer.variables if "learning_rate" not in v.path]
    result = {f"{n:03d} {v.path}": v.numpy() for n, v in enumerate(weights)}
    for v in model.trainable_variables:
        result[f"moved {v.path}"] = np.abs(v.numpy() - before[id(v)]).max()
    return result | {f"log {k}": np.float64(v[-1]) for k, v in history.history.items()}


def main(devices, cases, output):
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * int(devices)
        tf.config.set_logical_device_configuration(cpu, logical)
        names = [f"CPU:{n}" for n in range(int(devices))]
        strategy = tf.distribute.MirroredStrategy(names)
    keras.config.set_floatx("float64")  # so that rounding is far below what is compared
    results = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        results |= {f"{name}|{key}": value for key, value in train(strategy, case).items()}
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
