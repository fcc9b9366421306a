"""Where a crop lies and how it is resized, against plain loops and Pillow."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adios_tf.data import AugmentConfig, evaluation_transform, normalize
from adios_tf.data.augmentation import crop_resize, crop_resize_batch, draw
from adios_tf.data.geometry import (
    CROP_DRAWS,
    CROP_TRIES,
    INTERPOLATIONS,
    crop_box,
    nearest_rows,
    resize_image,
    resize_matrix,
)
from adios_tf.errors import UserError

PLAIN = AugmentConfig(image_size=16, flip_prob=0)


def photo(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def many_draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, CROP_DRAWS)).astype(np.float32)


def slow_box(height: int, width: int, draws: np.ndarray, config: AugmentConfig) -> tuple:
    """The first of ten boxes that fits, else the middle of the image."""
    draws = draws.astype(np.float64)
    at = draws[2 * CROP_TRIES : CROP_DRAWS]
    low, high = math.log(config.min_ratio), math.log(config.max_ratio)
    for n in range(CROP_TRIES):
        scale = config.min_scale + draws[n] * (config.max_scale - config.min_scale)
        ratio = math.exp(low + draws[CROP_TRIES + n] * (high - low))
        w = round(math.sqrt(height * width * scale * ratio))
        h = round(math.sqrt(height * width * scale / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            return int(at[0] * (height - h + 1)), int(at[1] * (width - w + 1)), h, w
    ratio = min(max(width / height, config.min_ratio), config.max_ratio)
    w, h = max(min(width, round(height * ratio)), 1), max(min(height, round(width / ratio)), 1)
    return (height - h + 1) // 2, (width - w + 1) // 2, h, w


def slow_resize(
    image: np.ndarray, size: int | tuple[int, int], interpolation: str = "bicubic"
) -> np.ndarray:
    """Pillow's on float channels, [h,w,3] in [0,1] -> [size,size,3], or size = (width, height)."""
    size = (size, size) if isinstance(size, int) else size
    kernel = Image.Resampling[interpolation.upper()]
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(size, kernel)
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 1)


@pytest.mark.parametrize("shape", [(32, 32), (20, 47), (64, 9), (1, 5)])
def test_crop_box_equals_the_slow_search(shape):
    draws = many_draws(200)
    # A draw at the rounding edge of float32 may go either way; there are none among these.
    for config in (PLAIN, AugmentConfig(min_scale=0.9, min_ratio=2.0, max_ratio=3.0)):
        boxes = np.stack([np.asarray(x) for x in crop_box(*shape, tf.constant(draws), config)], 1)
        assert boxes.tolist() == [list(slow_box(*shape, d, config)) for d in draws]


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.floats(0.01, 1.0),
    st.floats(1.0, 8.0),
    st.integers(0),
)
@settings(max_examples=60, deadline=None)
def test_crop_box_lies_in_the_image(height, width, min_scale, ratio, seed):
    config = AugmentConfig(min_scale=min_scale, min_ratio=1 / ratio, max_ratio=ratio)
    draws = many_draws(8, seed)
    draws[0], draws[1] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    top, left, h, w = (np.asarray(x) for x in crop_box(height, width, tf.constant(draws), config))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_crop_areas_are_uniform_in_their_range():
    config = AugmentConfig(min_scale=0.08, max_scale=0.5)  # above, boxes may not fit
    *_, h, w = crop_box(1000, 1000, tf.constant(many_draws(4000)), config)
    area = (np.sort(np.asarray(h * w) / 1e6) - 0.08) / 0.42
    # The Kolmogorov-Smirnov distance, 1.63 / sqrt(4000) at 1 %.
    assert np.abs(area - np.linspace(0, 1, len(area))).max() < 0.026
    ratio = np.log(np.asarray(w / h))
    assert abs(ratio.mean()) < 0.02
    assert ratio.min() < -0.27
    assert ratio.max() > 0.27


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(24, 20), (7, 40), (16, 16), (1, 3), (130, 90)])
def test_resize_equals_pillow(shape, interpolation):
    image = photo(*shape).astype(np.float32) / 255
    ours = resize_image(tf.constant(image), 16, interpolation).numpy()
    np.testing.assert_allclose(ours, slow_resize(image, 16, interpolation), atol=2e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_resize_matrix_equals_pillow_on_a_stretch(interpolation):
    line = np.random.default_rng(1).random((40, 3)).astype(np.float32)
    start, length = np.array([0, 5, 12, 39]), np.array([40, 30, 9, 1])
    where = tf.constant(start, tf.int32), tf.constant(length, tf.int32)
    rows = resize_matrix(*where, 40, 16, interpolation=interpolation)
    np.testing.assert_allclose(np.asarray(rows).sum(-1), 1, atol=1e-5)
    for n, (a, b) in enumerate(zip(start, length, strict=True)):
        stretch = np.repeat(line[a : a + b][None], 4, axis=0)
        wanted = slow_resize(stretch, 16, interpolation)[0]
        np.testing.assert_allclose(np.clip(rows[n] @ line, 0, 1), wanted, atol=2e-5)


def test_nearest_rows_takes_the_pixel_below_each_center():
    for start, length, size in ((0, 32, 32), (3, 10, 4), (2, 4, 9), (5, 1, 3)):
        wanted = [start + int((i + 0.5) * length / size) for i in range(size)]
        got = nearest_rows(tf.constant(start), tf.constant(length), size)
        assert got.numpy().tolist() == wanted
        flipped = nearest_rows(tf.constant(start), tf.constant(length), size, tf.constant(True))
        assert flipped.numpy().tolist() == wanted[::-1]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_resize_equals_pillow(interpolation):
    image, config = photo(40, 50), dataclasses.replace(PLAIN, interpolation=interpolation)
    for seed in range(6):
        drawn = draw(tf.constant([seed, 1]))
        top, left, h, w = slow_box(40, 50, drawn.numpy(), PLAIN)
        box = image[top : top + h, left : left + w].astype(np.float32) / 255
        wanted = slow_resize(box, 16, interpolation)
        got, none = crop_resize(tf.constant(image), drawn, config)
        assert none is None
        np.testing.assert_allclose(np.moveaxis(got.numpy(), 0, -1), wanted, atol=2e-5)
        [batched], _ = crop_resize_batch(tf.constant(image[None]), drawn[None], config)
        np.testing.assert_allclose(batched, got, atol=2e-5)


def test_evaluation_transform():
    image, mask = photo(60, 40), np.arange(2400).reshape(60, 40)
    squashed, squashed_mask = evaluation_transform(image, 20, mask=mask)
    np.testing.assert_allclose(squashed, slow_resize(image / 255, 20), atol=2e-5)
    assert squashed_mask.shape == (20, 20)
    assert squashed_mask[0, 0] == mask[1, 1]
    # As torchvision does it: the shorter side to 21 / 0.7 = 30, then the central 21 pixels.
    for interpolation in INTERPOLATIONS:
        centered, centered_mask = evaluation_transform(
            image, 21, "center_crop", 0.7, mask, interpolation
        )
        scaled = slow_resize(image / 255, (30, 45), interpolation)
        np.testing.assert_allclose(centered, scaled[12:33, 4:25], atol=2e-5)
    assert centered_mask[0, 0] == mask[int(12.5 * 4 / 3), int(4.5 * 4 / 3)]
    with pytest.raises(UserError, match="center_crop"):
        evaluation_transform(image, 20, resize="crop")
    with pytest.raises(UserError, match="did you mean 'bilinear'"):
        evaluation_transform(image, 20, interpolation="linear")
    with pytest.raises(UserError, match="crop_ratio"):
        evaluation_transform(image, 20, crop_ratio=0.0)


def test_normalize():
    images = np.random.default_rng(0).random((2, 3, 3, 3)).astype(np.float32)
    wanted = (images - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 2])
    np.testing.assert_allclose(
        normalize(images, (0.1, 0.2, 0.3), (0.5, 0.25, 2)), wanted, rtol=1e-5
    )
