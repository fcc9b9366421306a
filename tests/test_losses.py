"""The distances against slow NumPy transcriptions of their formulas."""

import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.losses import (
    cosine_ramp,
    info_nce,
    negative_cosine,
    normalize,
    nt_xent,
    nt_xent_rows,
)

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 5))
TEMPERATURES = st.sampled_from([0.07, 0.2, 0.5, 1.0, 5.0])
SEEDS = st.integers(0, 2**16)
few = hypothesis.settings(max_examples=25, deadline=None)


def unit(rows):
    return [row / max(np.sqrt((row**2).sum()), 1e-12) for row in rows]


def slow_nt_xent(first, second, temperature):
    """Chen et al. (2020), eq. 1, with loops over all pairs."""
    rows = unit(first) + unit(second)
    total, number = 0.0, len(first)
    for i in range(2 * number):
        partner = (i + number) % (2 * number)
        others = [math.exp(rows[i] @ rows[j] / temperature) for j in range(2 * number) if j != i]
        total -= math.log(math.exp(rows[i] @ rows[partner] / temperature) / sum(others))
    return total / (2 * number)


def slow_info_nce(query, key, queue, temperature):
    losses = []
    for a, b in zip(unit(query), unit(key), strict=True):
        right = math.exp(a @ b / temperature)
        wrong = sum(math.exp(a @ c / temperature) for c in queue)
        losses.append(-math.log(right / (right + wrong)))
    return losses


def two(seed, sizes):
    return np.random.default_rng(seed).normal(size=(2, *sizes))


@few
@hypothesis.given(SEEDS, SIZES, TEMPERATURES)
def test_nt_xent_is_the_formula(seed, sizes, temperature):
    first, second = two(seed, sizes)
    ours = nt_xent(tf.constant(first), tf.constant(second), temperature)
    np.testing.assert_allclose(
        ours, slow_nt_xent(first, second, temperature), rtol=1e-9, atol=1e-12
    )


@few
@hypothesis.given(SEEDS, SIZES, st.floats(0.1, 50))
def test_nt_xent_is_symmetric_and_sees_directions_only(seed, sizes, scale):
    first, second = (tf.constant(part) for part in two(seed, sizes))
    value = nt_xent(first, second, 0.3)
    np.testing.assert_allclose(value, nt_xent(second, first, 0.3), rtol=1e-9)
    np.testing.assert_allclose(value, nt_xent(first * scale, second, 0.3), rtol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_nt_xent_where_all_are_alike(number):
    rows = tf.ones((number, 3), tf.float64)
    np.testing.assert_allclose(nt_xent(rows, rows, 0.1), math.log(2 * number - 1), atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES, st.integers(1, 7), TEMPERATURES)
def test_info_nce_is_the_formula(seed, sizes, places, temperature):
    query, key = two(seed, sizes)
    queue = np.array(unit(np.random.default_rng(seed + 1).normal(size=(places, sizes[1]))))
    ours = info_nce(tf.constant(query), tf.constant(key), tf.constant(queue), temperature)
    expected = slow_info_nce(query, key, queue, temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES)
def test_negative_cosine_is_the_formula(seed, sizes):
    query, key = two(seed, sizes)
    expected = [-a @ b for a, b in zip(unit(query), unit(key), strict=True)]
    np.testing.assert_allclose(
        negative_cosine(tf.constant(query), tf.constant(key)), expected, rtol=1e-9
    )


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_zero_row_has_a_finite_loss_and_gradient(dtype):
    rows = tf.cast([[0.0, 0.0], [1.0, 2.0]], dtype)
    other = tf.cast([[1.0, 0.0], [0.5, 2.0]], dtype)
    losses = (
        lambda z: nt_xent(z, other),
        lambda z: tf.reduce_sum(negative_cosine(z, other)),
        lambda z: tf.reduce_sum(info_nce(z, other, tf.eye(2), 0.2)),
    )
    for loss in losses:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(rows)
        assert value.dtype == tf.float32
        assert np.isfinite(value)
        assert np.isfinite(tf.cast(tape.gradient(value, rows), tf.float32)).all()


def test_normalize_leaves_unit_rows():
    rows = normalize(tf.constant(np.random.default_rng(0).normal(size=(5, 3)) * 1e-3))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-12)


def test_the_rows_of_both_directions_make_the_loss():
    first, second = (tf.constant(part) for part in two(3, (4, 3)))
    rows = nt_xent_rows(first, second, 0.2) + nt_xent_rows(second, first, 0.2)
    np.testing.assert_allclose(tf.reduce_mean(rows) / 2, nt_xent(first, second, 0.2))


def test_cosine_ramp():
    at = [float(cosine_ramp(tf.constant(step), 10, 0.9, 1.0)) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(at, [0.9, 0.95, 1.0, 1.0], atol=1e-7)
