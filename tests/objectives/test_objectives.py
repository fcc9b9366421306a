"""What each objective compares, what it learns from, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.objectives import OBJECTIVES, Embedding, View
from adios_tf.registry import construct

SETTINGS = {"hidden_dim": 6, "output_dim": 4, "predictor_dim": 5, "queue_size": 8}
OCCLUDED = {
    "simclr": {(View(2, True), View(1)): 0.5, (View(1), View(2, True)): 0.5},
    "byol": {(View(2, True), View(1)): 1, (View(1), View(2, True)): 1},
    "moco": {(View(2, True), View(1)): 1},
    "simsiam": {
        (View(2, True), View(1)): 1 / 4,
        (View(1), View(2, True)): 1 / 4,
        (View(1), View(2)): 1 / 4,
        (View(2), View(1)): 1 / 4,
    },
}
BOTH = {
    "simclr": 4,
    "byol": 4,
    "moco": 2,
    "simsiam": 8,
}


def encoder():
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
        ]
    )


def build(name, **settings):
    keras.utils.set_random_seed(0)
    return construct(OBJECTIVES[name], SETTINGS | settings, encoder=encoder())


def images(seed, rows=6):
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, 4, 4, 3)), tf.float32)


def as_table(pairs):
    return {(pair.query, pair.key): pytest.approx(pair.weight) for pair in pairs}


@pytest.mark.parametrize("name", OCCLUDED)
def test_pairs_of_an_occluded_view(name):
    assert as_table(build(name).occluded_pairs((2,))) == OCCLUDED[name]


@pytest.mark.parametrize("name", BOTH)
def test_pairs_of_two_occluded_views(name):
    """Masking the first view too is the mirror image, at the same total weight."""
    pairs = build(name).occluded_pairs((1, 2))
    assert len(pairs) == BOTH[name]
    table = {(pair.query, pair.key): pair.weight for pair in pairs}
    mirrored = {
        tuple(view._replace(index=3 - view.index) for view in pair): weight
        for pair, weight in table.items()
    }
    assert table == pytest.approx(mirrored)
    total = sum(OCCLUDED[name].values())
    assert sum(table.values()) == pytest.approx(total)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_of_an_embedding(name):
    objective = build(name)
    query = objective.embed(images(0), query=True, key=False)
    key = objective.embed(images(0), query=False, key=True)
    assert query.query.shape == key.key.shape == (6, 4)
    assert query.features.shape == (6, 5)


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco"])
def test_no_gradient_reaches_a_key(name):
    objective = build(name)
    with tf.GradientTape() as tape:
        key = objective.embed(images(0), query=False, key=True).key
    assert all(g is None for g in tape.gradient(key, objective.variables))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_view_is_nearest_to_itself(name):
    """Embeddings that agree score lower than those of other images."""
    objective = build(name)
    rows = tf.linalg.eye(4)
    same = objective.loss(
        {"a": _embedding(rows), "b": _embedding(rows)}, objective.symmetric("a", "b")
    )
    other = objective.loss(
        {"a": _embedding(rows), "b": _embedding(rows[::-1])}, objective.symmetric("a", "b")
    )
    assert float(same) < float(other)


def _embedding(rows):
    return Embedding(None, rows, rows)


@pytest.mark.parametrize("name", ["simclr", "moco"])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_above_zero(name, temperature):
    with pytest.raises(UserError, match=r"temperature must be above 0.*0\.2 is usual"):
        build(name, temperature=temperature)


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_the_slow_copy_starts_equal_and_follows(name):
    objective = build(name, ema_base=0.75)
    fast = objective.trained_variables()
    slow = (
        objective.target_encoder.trainable_variables
        + objective.target_projector.trainable_variables
    )
    assert not {id(v) for v in fast} & {id(v) for v in slow}
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, b)
    for v in fast:
        v.assign_add(tf.ones_like(v))
    before = [v.numpy() for v in slow]
    clean = {View(1): objective.embed(images(0), query=False, key=True)}
    objective.after_step(clean, tf.constant(0, tf.int64))
    for was, now in zip(before, slow, strict=True):
        np.testing.assert_allclose(now.numpy(), was + 0.25, atol=1e-6)


def test_weights_per_example():
    """A weight may be a number or one per example."""
    objective = build("byol")
    views = {"a": _embedding(tf.eye(4)), "b": _embedding(tf.eye(4)[::-1])}
    each = objective.distance(views["a"], views["b"])
    weights = tf.constant([1.0, 0.0, 2.0, 0.5])
    pair = objective.symmetric("a", "b")[0]._replace(weight=weights)
    np.testing.assert_allclose(objective.loss(views, [pair]), tf.reduce_mean(weights * each))
    assert float(objective.loss(views, [])) == 0
