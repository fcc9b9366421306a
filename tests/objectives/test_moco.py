"""MoCo's queue: first in, first out; saved; refused where it is too small."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.errors import UserError
from adios_tf.objectives import Embedding, MoCo, View

WIDTH = 3


def moco(places, **settings):
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    return MoCo(encoder, queue_size=places, hidden_dim=5, output_dim=WIDTH, **settings)


def keys(draw, rows):
    return tf.constant(draw.normal(size=(rows, WIDTH)), tf.float32)


def put(objective, *batches):
    clean = {View(n + 1): Embedding(key=batch) for n, batch in enumerate(batches)}
    objective.after_step(clean, tf.constant(0, tf.int64))


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 4))
def test_the_queue_holds_the_last_keys(seed, places, rows):
    """Also where a batch does not divide the queue: the ring wraps within it."""
    hypothesis.assume(rows <= places)
    objective, draw = moco(places), np.random.default_rng(seed)
    all_keys = list(objective.queue.numpy())
    for _ in range(5):
        batch = keys(draw, rows)
        put(objective, batch)
        all_keys += [row / np.linalg.norm(row) for row in batch.numpy()]
    held = np.roll(objective.queue.numpy(), -int(objective.queue_place), axis=0)
    np.testing.assert_allclose(held, all_keys[-places:], atol=1e-6)


def test_it_starts_with_unit_rows_that_the_seed_decides():
    rows = moco(16).queue.numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows, moco(16).queue.numpy())
    assert np.abs(rows @ rows.T - np.eye(16)).max() > 0.1


def test_symmetric_sums_both_directions_and_queues_both_keys():
    objective, draw = moco(8, symmetric=True), np.random.default_rng(0)
    pairs = [tuple(pair) for pair in objective.symmetric(View(2), View(1))]
    assert pairs == [(View(2), View(1), 1.0), (View(1), View(2), 1.0)]
    occluded = [tuple(pair) for pair in objective.occluded_pairs((2,))]
    assert occluded == [(View(2, True), View(1), 1.0), (View(2, True), View(2), 1.0)]
    first, second = keys(draw, 2), keys(draw, 2)
    put(objective, first, second)
    expected = tf.math.l2_normalize(tf.concat([first, second], 0), axis=1)
    np.testing.assert_allclose(objective.queue[:4], expected, atol=1e-6)
    assert int(objective.queue_place) == 4


def test_a_queue_smaller_than_a_step_is_refused():
    with pytest.raises(UserError, match=r"queue_size=3 is smaller than the 4 keys"):
        put(moco(3), keys(np.random.default_rng(0), 4))


def test_the_queue_is_saved_with_the_weights(tmp_path):
    objective, draw = moco(6), np.random.default_rng(0)
    put(objective, keys(draw, 4))
    paths = {v.path.rsplit("/", 1)[-1] for v in objective.non_trainable_variables}
    assert {"queue", "queue_place"} <= paths
    model = keras.Model()
    model.objective = objective
    model.built = True
    model.save_weights(tmp_path / "moco.weights.h5")
    kept = objective.queue.numpy()
    put(objective, keys(draw, 4))
    assert np.abs(objective.queue.numpy() - kept).max() > 0.1
    model.load_weights(tmp_path / "moco.weights.h5")
    np.testing.assert_array_equal(objective.queue.numpy(), kept)
    assert int(objective.queue_place) == 4


def test_the_queue_is_not_trained():
    objective = moco(6)
    embedded = objective.embed(tf.ones((2, 2, 2, 3)), query=True, key=True)
    with tf.GradientTape() as tape:
        query = objective.embed(tf.ones((2, 2, 2, 3)), query=True, key=False)
        distance = objective.distance(query, embedded)
    assert distance.shape == (2,)
    gradients = tape.gradient(distance, objective.variables)
    moved = {v.path for v, g in zip(objective.variables, gradients, strict=True) if g is not None}
    assert moved == {v.path for v in objective.trained_variables()}
