"""What covers the hole: the visible part stays, the hidden one tells nothing it should not."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import ndimage

from adios_tf.errors import UserError
from adios_tf.masking import FILLS, Blur, Erase, Mean, Mix, Noise
from adios_tf.nets.filters import build_high_pass, gaussian_blur

few = hypothesis.settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**16)
ROWS, SIDE = 5, 12
KINDS = ("erase", "mean", "noise", "blur", "mix")


def images(seed):
    return tf.constant(np.random.default_rng(seed).normal(size=(ROWS, SIDE, SIDE, 3)), tf.float32)


def binary(seed, colors=False):
    shape = (ROWS, SIDE, SIDE, 3) if colors else (ROWS, SIDE, SIDE)
    return tf.constant(np.random.default_rng(seed).integers(0, 2, shape), tf.float32)


def covered(fill, x, mask, seed=0, slot=0):
    return fill.cover(x, mask, tf.constant([seed, 1]), slot).images.numpy()


def test_all_fills_are_tested():
    assert set(KINDS) == {n for n in FILLS if FILLS[n].__module__.startswith("adios_tf.")}


@pytest.mark.parametrize("kind", KINDS)
@few
@hypothesis.given(seed=SEEDS, colors=st.booleans())
def test_the_visible_part_is_untouched(kind, seed, colors):
    x, mask = images(seed), binary(seed + 1, colors)
    filled = covered(FILLS[kind](), x, mask, seed)
    hidden = np.broadcast_to(mask if colors else mask[..., None], x.shape) == 1
    np.testing.assert_array_equal(filled[~hidden], x.numpy()[~hidden])
    assert (filled[hidden] != x.numpy()[hidden]).mean() > 0.7
    np.testing.assert_array_equal(covered(FILLS[kind](), x, tf.zeros_like(mask), seed), x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_flows_through_the_mask(kind):
    x, mask = images(0)[:4], tf.fill((4, SIDE, SIDE), 0.3)
    with tf.GradientTape() as tape:
        tape.watch(mask)
        total = tf.reduce_sum(tf.square(FILLS[kind]().cover(x, mask, tf.constant([0, 1])).images))
    gradient = tape.gradient(total, mask)
    assert gradient.shape == mask.shape
    assert (gradient.numpy() != 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float64])
def test_the_dtype_of_the_images_stays(kind, dtype):
    x = tf.cast(images(0), dtype)
    assert FILLS[kind]().cover(x, binary(1), tf.constant([0, 1])).images.dtype == dtype


def test_what_each_paints():
    x, everything = images(3), tf.ones((ROWS, SIDE, SIDE))
    np.testing.assert_array_equal(covered(Erase(), x, everything), 0)
    mean = np.broadcast_to(x.numpy().mean((1, 2), keepdims=True), x.shape)
    np.testing.assert_allclose(covered(Mean(), x, everything), mean, atol=1e-6)
    np.testing.assert_array_equal(covered(Mix(), x, everything), x[::-1])
    blurred = covered(Blur(0.05), x, everything)
    assert blurred.std() < 0.6 * x.numpy().std()
    np.testing.assert_allclose(covered(Blur(), tf.ones_like(x), everything), 1, atol=1e-5)


def test_noise():
    x, everything = tf.zeros((200, SIDE, SIDE, 3)), tf.ones((200, SIDE, SIDE))
    fresh = covered(Noise(0.5), x, everything)
    assert fresh.std() == pytest.approx(0.5, rel=0.02)
    assert np.abs(np.corrcoef(fresh[0].ravel(), fresh[1].ravel())[0, 1]) < 0.2
    assert (fresh != covered(Noise(0.5), x, everything, seed=9)).all()
    tiled = covered(Noise(0.5, noise_tile=5), x, everything)
    np.testing.assert_array_equal(tiled, np.broadcast_to(tiled[:1], tiled.shape))
    np.testing.assert_array_equal(tiled[:, 5:], tiled[:, :-5])
    np.testing.assert_array_equal(tiled[:, :, 5:], tiled[:, :, :-5])


@few
@hypothesis.given(SEEDS, st.sampled_from([3, 5, 11]), st.floats(0.3, 6))
def test_the_blur_is_scipys(seed, kernel, sigma):
    x = images(seed)
    taps = np.exp(-0.5 * (np.arange(kernel) - kernel // 2) ** 2 / sigma**2)
    expected = x.numpy()
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, taps / taps.sum(), axis=axis, mode="mirror")
    np.testing.assert_allclose(gaussian_blur(x, kernel, sigma), expected, atol=1e-5)


def test_the_high_pass_takes_flat_color_away_and_is_saved_whole(tmp_path):
    model = build_high_pass(SIDE)
    np.testing.assert_allclose(model(tf.fill((1, SIDE, SIDE, 3), 3.0)), 0, atol=1e-5)
    x = images(1)
    np.testing.assert_allclose(model(x), x - gaussian_blur(x, 11, 5.0), atol=1e-6)
    model.save(tmp_path / "filter.keras")
    again = keras.models.load_model(tmp_path / "filter.keras")
    np.testing.assert_array_equal(again(x), model(x))
    assert not model.trainable_variables


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Noise(-1.0), "must not be negative"),
        (lambda: Blur(0.0), "above 0"),
        (lambda: Mix("next"), "random, reversal"),
        (lambda: build_high_pass(32, 10), "odd number"),
        (lambda: build_high_pass(5, 11), "odd number"),
    ],
)
def test_refused_with_advice(make, advice):
    with pytest.raises(UserError, match=advice):
        make()
