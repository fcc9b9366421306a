"""Losses against slow NumPy transcriptions of their formulas."""

import doctest
import math

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import adios_tf.losses
from adios_tf.errors import UserError
from adios_tf.losses import CosineDistance, InfoNCE, MixMask, NegativeCosine, NTXent, normalize
from adios_tf.masking import Mix
from adios_tf.masking.fill import Filled
from adios_tf.objectives import Embedding, MoCo, View

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


def slow_cosine_distance(query, key):
    """Grill et al. (2020), eq. 2: the squared distance of unit vectors."""
    return [((a - b) ** 2).sum() for a, b in zip(unit(query), unit(key), strict=True)]


def as_double(loss, *arguments, **kwargs):
    return loss(*arguments, dtype="float64", **kwargs)


@few
@hypothesis.given(SEEDS, SIZES, TEMPERATURES)
def test_nt_xent_is_the_formula(seed, sizes, temperature):
    first, second = two(seed, sizes)
    loss = as_double(NTXent, temperature)
    expected = slow_nt_xent(first, second, temperature)
    np.testing.assert_allclose(loss(first, second), expected, rtol=1e-9, atol=1e-12)
    rows = as_double(NTXent, temperature, reduction=None)(first, second)
    assert rows.shape == (sizes[0],)
    np.testing.assert_allclose(np.mean(rows), expected, rtol=1e-9, atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES, st.floats(0.1, 50))
def test_nt_xent_is_symmetric_and_sees_directions_only(seed, sizes, scale):
    first, second = two(seed, sizes)
    loss = as_double(NTXent, 0.3, reduction=None)
    np.testing.assert_allclose(loss(first, second), loss(second, first), rtol=1e-9)
    np.testing.assert_allclose(loss(first, second), loss(first * scale, second), rtol=1e-9)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_nt_xent_where_all_are_alike(number):
    rows = np.ones((number, 3))
    loss = as_double(NTXent, 0.1)(rows, rows)
    np.testing.assert_allclose(loss, math.log(2 * number - 1), atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES, st.integers(1, 7), TEMPERATURES)
def test_info_nce_is_the_formula(seed, sizes, places, temperature):
    query, key = two(seed, sizes)
    queue = np.random.default_rng(seed + 1).normal(size=(places, sizes[1]))
    ours = as_double(InfoNCE, temperature, reduction=None)((key, queue), query)
    expected = slow_info_nce(query, key, unit(queue), temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES)
def test_cosines_are_the_formula(seed, sizes):
    query, key = two(seed, sizes)
    expected = [-a @ b for a, b in zip(unit(query), unit(key), strict=True)]
    ours = as_double(NegativeCosine, reduction=None)(key, query)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    ours = as_double(CosineDistance, reduction=None)(key, query)
    np.testing.assert_allclose(ours, slow_cosine_distance(query, key), rtol=1e-9, atol=1e-12)


def mixture(seed, sizes):
    """Shares that are visible, and a permutation."""
    draw = np.random.default_rng(seed + 2)
    return draw.uniform(size=sizes[0]), draw.permutation(sizes[0])


@few
@hypothesis.given(SEEDS, SIZES, st.booleans())
def test_mixmask_is_the_formula(seed, sizes, contrasts):
    mixed, key = two(seed, sizes)
    visible, partner = mixture(seed, sizes)
    queue = unit(np.random.default_rng(seed + 1).normal(size=(3, sizes[1])))
    if contrasts:
        inner, target = InfoNCE(0.5), (key, np.array(queue))
        own = slow_info_nce(mixed, key, queue, 0.5)
        theirs = slow_info_nce(mixed, key[partner], queue, 0.5)
    else:
        inner, target = CosineDistance(), key
        own, theirs = (slow_cosine_distance(mixed, k) for k in (key, key[partner]))
    expected = [v * a + (1 - v) * b for v, a, b in zip(visible, own, theirs, strict=True)]
    ours = as_double(MixMask, inner, reduction=None)((target, visible, partner), mixed)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


@few
@hypothesis.given(SEEDS, SIZES)
def test_mixmask_is_what_the_fill_asks_of_an_objective(seed, sizes):
    mixed, key = (tf.constant(part, tf.float32) for part in two(seed, sizes))
    visible, partner = mixture(seed, sizes)
    encoder = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    moco = MoCo(encoder, queue_size=4, output_dim=sizes[1])
    views = {View(1): Embedding(key=key), View(2, occluded=True): Embedding(query=mixed)}
    mask = tf.cast(1 - visible[:, None, None], tf.float32)
    cover = {2: Filled(None, tf.constant(partner, tf.int32))}
    pairs, views = Mix().weigh(moco.occluded_pairs((2,)), views, {2: mask}, cover)
    target = ((key, moco.queue), visible, partner)
    ours = MixMask(InfoNCE(moco.temperature))(target, mixed)
    np.testing.assert_allclose(ours, moco.loss(views, pairs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_zero_row_has_a_finite_loss_and_gradient(dtype):
    rows = tf.cast([[0.0, 0.0], [1.0, 2.0]], dtype)
    other = tf.cast([[1.0, 0.0], [0.5, 2.0]], dtype)
    losses = (
        lambda z: NTXent()(other, z),
        lambda z: NegativeCosine()(other, z),
        lambda z: InfoNCE()((other, tf.eye(2)), z),
    )
    for loss in losses:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(rows)
        assert value.dtype == tf.float32
        assert np.isfinite(value)
        assert np.isfinite(tf.cast(tape.gradient(value, rows), tf.float32)).all()


def test_targets_get_no_gradient():
    query, key = (tf.constant(part) for part in two(0, (4, 3)))
    losses = {
        NTXent(): lambda k: k,
        CosineDistance(): lambda k: k,
        NegativeCosine(): lambda k: k,
        InfoNCE(): lambda k: (k, k),
        MixMask(InfoNCE()): lambda k: ((k, k), tf.ones(4), tf.range(4)),
    }
    reached = []
    for loss, target in losses.items():
        with tf.GradientTape() as tape:
            tape.watch([query, key])
            value = loss(target(key), query)
        to_query, to_key = tape.gradient(value, [query, key])
        assert float(tf.reduce_max(tf.abs(to_query))) > 0
        reached.append(to_key is not None)
    assert reached == [True, False, False, False, False]


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("loss", [NTXent, InfoNCE])
def test_refused_temperatures(loss, temperature):
    with pytest.raises(UserError, match="temperature must be above 0"):
        loss(temperature)


def test_other_nonsense_is_refused():
    with pytest.raises(UserError, match=r"a loss of adios_tf\.losses"):
        MixMask(keras.losses.MeanSquaredError())
    for shapes in (((4, 3), (4, 2)), ((4,), (4,)), ((4, 3), (2, 3))):
        with pytest.raises(UserError, match=r"embeddings \[B,D\] of one shape"):
            NTXent()(*map(tf.ones, shapes))


def test_weights_and_reductions_are_those_of_keras():
    first, second = two(0, (4, 3))
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    rows = as_double(CosineDistance, reduction=None)(first, second)
    weighted = as_double(CosineDistance)(first, second, sample_weight=weights)
    np.testing.assert_allclose(weighted, np.mean(weights * rows), rtol=1e-9)
    total = as_double(CosineDistance, reduction="sum")(first, second)
    np.testing.assert_allclose(total, np.sum(rows), rtol=1e-9)


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(adios_tf.losses) == (0, 16)


def test_normalize_leaves_unit_rows():
    rows = normalize(tf.constant(np.random.default_rng(0).normal(size=(5, 3)) * 1e-3))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-12)
