"""Fast normalization equals Keras's own: outputs, gradients, running averages, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.nets.normalization import use_fast_kernels

SHAPE = (4, 6, 10, 16)


def _pair(kind, dtype="float32", **options):
    """Keras's layer and a fast one of the same weights, each in a model."""
    models = []
    for fast in (False, True):
        inputs = keras.Input(SHAPE[1:], dtype=dtype)
        policy = dtype if dtype == "float32" else f"mixed_{dtype}"
        layer = kind(epsilon=1e-5, dtype=policy, **options)
        model = keras.Model(inputs, layer(inputs))
        draws = np.random.default_rng(0)
        layer.set_weights([draws.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
        if fast:
            use_fast_kernels(model)
        models.append(model)
    return models


def _run(model, training, dtype="float32"):
    """Output, gradients and weights after one call."""
    draws = np.random.default_rng(1)
    # Far from zero mean, so that a variance as a difference of large numbers shows.
    x = tf.cast(draws.normal(3, 2, SHAPE).astype(np.float32), dtype)
    upstream = tf.cast(draws.normal(0, 1, SHAPE).astype(np.float32), dtype)

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=training)
        return y, tape.gradient(y, [x, *[v.value for v in model.trainable_variables]], upstream)

    y, gradients = run()
    assert y.dtype == gradients[0].dtype == dtype
    return [np.asarray(tf.cast(t, tf.float32)) for t in (y, *gradients, *model.get_weights())]


CASES = {
    "batch": (keras.layers.BatchNormalization, {"momentum": 0.7, "synchronized": True}),
    "batch, plain": (keras.layers.BatchNormalization, {"center": False, "scale": False}),
    "groups of two": (keras.layers.GroupNormalization, {"groups": 8}),
    "one group": (keras.layers.GroupNormalization, {"groups": 1}),
    "instance": (keras.layers.GroupNormalization, {"groups": -1}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("training", "dtype", "tolerance"),
    [(True, "float32", 2e-5), (False, "float32", 2e-5), (True, "bfloat16", 0.02)],
)
def test_equals_keras(case, training, dtype, tolerance):
    kind, options = CASES[case]
    slow, fast = (_run(model, training, dtype) for model in _pair(kind, dtype, **options))
    assert len(slow) == len(fast)
    for expected, got in zip(slow, fast, strict=True):
        np.testing.assert_allclose(got, expected, tolerance, tolerance * np.abs(expected).max())


def test_the_fused_kernel_is_taken_only_where_one_device_trains():
    _, fast = _pair(keras.layers.BatchNormalization, synchronized=True)

    def kernels(training):
        function = tf.function(lambda x: fast(x, training=training))
        graph = function.get_concrete_function(tf.TensorSpec(SHAPE)).graph
        return [op.type for op in graph.get_operations() if "FusedBatchNorm" in op.type]

    assert kernels(True) == ["FusedBatchNormV3"]
    assert kernels(False) == []
    fast.layers[1].trainable = False  # Keras's way to freeze running averages
    assert kernels(True) == []


def test_files_and_copies_have_keras_layers(tmp_path):
    slow, fast = _pair(keras.layers.GroupNormalization, groups=4)
    assert fast.layers[1].get_config() == slow.layers[1].get_config() | {
        "name": fast.layers[1].name
    }
    fast.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    assert type(again.layers[1]) is keras.layers.GroupNormalization
    assert "call" not in vars(again.layers[1])
    np.testing.assert_allclose(again(x), fast(x), atol=1e-5)
