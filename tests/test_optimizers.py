"""Also a program: run as a script with a job's name it works on two logical devices."""

import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.optimizers import LARS, OPTIMIZERS, SGD, AdamW, build_optimizer
from adios_tf.schedules import WarmupCosine

NAMES = ("sgd", "lars", "adamw")
SHAPES = {"kernel": (3, 4), "bias": (4,), "gamma": (4,)}


def _weights(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in SHAPES.items()}


def _variables(seed=0):
    return [keras.Variable(value, name=name) for name, value in _weights(seed).items()]


def _gradients(step):
    return list(_weights(100 + step).values())


def _run(optimizer, variables, steps):
    for step in steps:
        optimizer.apply(_gradients(step), variables)
    return [v.numpy() for v in variables]


def _schedule():
    return WarmupCosine(0.3, 6, 1, 2, 0.01)


def _oracle(name, steps, rate, momentum=0.9, decay=0.1, eta=0.02, excluded=()):
    """SGD, LARS and AdamW written down once more, slowly, in float64."""
    weights = {k: v.astype("float64") for k, v in _weights().items()}
    first = {k: np.zeros_like(v) for k, v in weights.items()}
    second = {k: np.zeros_like(v) for k, v in weights.items()}
    for step in range(steps):
        lr = rate(step)
        for (key, w), g in zip(weights.items(), _gradients(step), strict=True):
            g = g.astype("float64")
            wd = 0.0 if key in excluded else decay
            if name == "adamw":
                w = w - lr * wd * w
                first[key] = 0.9 * first[key] + 0.1 * g
                second[key] = 0.999 * second[key] + 0.001 * g**2
                mean = first[key] / (1 - 0.9 ** (step + 1))
                square = second[key] / (1 - 0.999 ** (step + 1))
                weights[key] = w - lr * mean / (np.sqrt(square) + 1e-8)
                continue
            ratio = 1.0
            if name == "lars" and key not in excluded:
                size, slope = np.linalg.norm(w), np.linalg.norm(g)
                ratio = min(eta * size / (slope + wd * size + 1e-8) / lr, 1.0)
            first[key] = momentum * first[key] + ratio * (g + wd * w)
            weights[key] = w - lr * first[key]
    return list(weights.values())


@pytest.mark.parametrize("exclude_1d", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_five_scheduled_steps_equal_the_slow_formula(name, exclude_1d):
    schedule = _schedule()
    optimizer = build_optimizer(name, schedule, weight_decay=0.1, exclude_1d=exclude_1d)
    excluded = ("bias", "gamma") if exclude_1d else ()
    expected = _oracle(name, 5, lambda step: float(schedule(step)), excluded=excluded)
    for got, want in zip(_run(optimizer, _variables(), range(5)), expected, strict=True):
        # 1 - 0.999^t has few digits in float32, in Keras's Adam as in PyTorch's.
        rtol = 2e-4 if name == "adamw" else 1e-5
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-6)


def test_defaults_of_exclusion_are_those_of_the_papers():
    assert not SGD(0.1).exclude_1d
    assert LARS(0.1).exclude_1d
    assert AdamW(0.1).exclude_1d


def test_attention_biases_are_excluded_and_tokens_are_not():
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer(np.zeros((1, 4, 6), "float32"), np.zeros((1, 4, 6), "float32"))
    token = keras.Variable(np.ones((1, 1, 6)), name="class_token")
    variables = [*layer.trainable_variables, token]
    optimizer = LARS(0.1)
    optimizer.build(variables)
    excluded = {variables[index].path for index in optimizer._excluded}
    assert excluded == {v.path for v in layer.trainable_variables if v.name == "bias"}
    assert any(len(v.shape) == 2 and v.path in excluded for v in variables)


def test_lars_with_a_rate_of_zero_stays_finite_and_still():
    variables = _variables()
    before = [v.numpy() for v in variables]
    for got, want in zip(_run(LARS(0.0), variables, range(2)), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_sparse_gradients_count_like_dense_ones():
    results = []
    for sparse in (True, False):
        table = keras.Variable(np.ones((5, 2), "float32"), name="embeddings")
        gradient = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([5, 2]))
        optimizer = LARS(0.1, weight_decay=0.1)
        optimizer.apply([gradient if sparse else tf.convert_to_tensor(gradient)], [table])
        results.append(table.numpy())
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], np.ones((5, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_calls_equal_one_call_with_the_mean(name):
    slow, fast = _variables(), _variables()
    optimizer = build_optimizer(name, 0.1, 0.1, accumulation_steps=3)
    _run(optimizer, slow, range(2))
    for got, want in zip(slow, _weights().values(), strict=True):
        np.testing.assert_array_equal(got.numpy(), want)
    _run(optimizer, slow, range(2, 7))
    assert int(optimizer.iterations) == 2
    plain = build_optimizer(name, 0.1, 0.1)
    for first in (0, 3):
        parts = zip(*(_gradients(first + step) for step in range(3)), strict=True)
        plain.apply([np.mean(part, axis=0) for part in parts], fast)
    for got, want in zip(slow, fast, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_continues_to_the_same_bits(name, accumulation_steps, tmp_path):
    def fresh(seed):
        variables = _variables(seed)
        optimizer = build_optimizer(name, _schedule(), 0.1, accumulation_steps=accumulation_steps)
        optimizer.build(variables)
        return (
            optimizer,
            variables,
            tf.train.Checkpoint(optimizer=optimizer, weights=[v.value for v in variables]),
        )

    optimizer, variables, checkpoint = fresh(0)
    _run(optimizer, variables, range(3))
    path = checkpoint.write(str(tmp_path / "ckpt"))
    expected = _run(optimizer, variables, range(3, 6))
    optimizer, variables, checkpoint = fresh(1)
    checkpoint.read(path).assert_consumed()
    for got, want in zip(_run(optimizer, variables, range(3, 6)), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_survives_serialization(name):
    optimizer = build_optimizer(
        name, _schedule(), 0.03, momentum=0.8, eta=0.5, clip=False, accumulation_steps=2
    )
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()


def test_every_optimizer_is_tested_here():
    assert set(OPTIMIZERS) == set(NAMES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lasr"}, "did you mean 'lars'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"eta": 0.0}, "eta=0.0"),
        ({"accumulation_steps": 0}, "accumulation_steps=0"),
    ],
)
def test_a_users_mistake_is_one_line(settings, words):
    with pytest.raises(UserError, match=words):
        build_optimizer(**{"name": "lars", "learning_rate": 0.1, **settings})


def _distributed(name, replicas, scaled, path):
    """Five batches, accumulated by two, on `replicas` devices; returns weights and slots.

    After the third call, in the middle of an accumulation, everything is saved, spoilt and
    restored.
    """
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        layer.kernel.assign(np.linspace(-1, 1, 12).reshape(4, 3))
        optimizer = build_optimizer(name, _schedule(), 0.1, accumulation_steps=2)
        inner = optimizer
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
        optimizer.build(layer.trainable_variables)
    checkpoint = tf.train.Checkpoint(layer=layer, optimizer=optimizer)
    batches = np.random.default_rng(0).normal(size=(5, 8, 4)).astype("float32")

    @tf.function
    def step(batch):
        def replica(batch):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(batch) ** 2) / 8
                loss = optimizer.scale_loss(loss)
            gradients = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply(gradients, layer.trainable_variables)

        strategy.run(replica, args=(batch,))

    for count, batch in enumerate(batches):
        parts = np.split(batch, replicas)
        step(
            strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: tf.constant(parts[context.replica_id_in_sync_group])
            )
        )
        if count == 2:
            saved = checkpoint.write(path)
            for variable in [*layer.trainable_variables, *inner.variables]:
                variable.assign(tf.ones_like(variable.value))
            checkpoint.read(saved)
    assert int(inner.iterations) == 2
    return [v.numpy() for v in [*layer.trainable_variables, *inner.variables]]


def _compare_devices(folder):
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    for name in NAMES:
        for scaled in (False, True):
            one, two = (_distributed(name, r, scaled, f"{folder}/{r}") for r in (1, 2))
            for left, right in zip(one, two, strict=True):
                np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
            print("equal", name, scaled, flush=True)


def test_two_devices_equal_one_with_accumulation_loss_scale_and_restore(tmp_path):
    run = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("equal") == 2 * len(NAMES)


if __name__ == "__main__":
    _compare_devices(sys.argv[1])
