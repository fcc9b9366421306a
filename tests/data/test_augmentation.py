"""Views against slow transcriptions in NumPy and SciPy; repeatable from their seeds."""

import colorsys
import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from adios_tf.data import AugmentConfig, augment
from adios_tf.data.augmentation import (
    DRAWS,
    LUMA,
    ORDERS,
    crop_resize,
    crop_resize_batch,
    draw,
    gaussian_blur,
    recolor,
    shift_hue,
    solarize,
)
from adios_tf.data.geometry import CROP_DRAWS
from adios_tf.errors import UserError

ALL = AugmentConfig(image_size=16, solarize_prob=0.3)
PLAIN = AugmentConfig(
    image_size=16, jitter_prob=0, gray_prob=0, blur_prob=0, solarize_prob=0, flip_prob=0
)


def photo(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def planes(count: int, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, side, side)).astype(np.float32)


def many_draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, DRAWS)).astype(np.float32)


# ---------------------------------------------------------------------- slow oracles


def slow_hue(image: np.ndarray, turns: float) -> np.ndarray:
    turned = np.empty_like(image)
    for place in np.ndindex(image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, image[(slice(None), *place)]))
        turned[(slice(None), *place)] = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
    return turned


def gray_of(image: np.ndarray) -> np.ndarray:
    return sum(weight * plane for weight, plane in zip(LUMA, image, strict=True))


def slow_jitter(image: np.ndarray, u: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """One image [3,S,S]: the four jitters one after another, in the order that u[5] names."""
    if u[0] >= config.jitter_prob:
        return image
    strengths = (config.brightness, config.contrast, config.saturation)
    factors = [
        max(1 - s, 0) + v * (1 + s - max(1 - s, 0)) for s, v in zip(strengths, u[1:4], strict=True)
    ]
    place = int(u[5] * 24)
    steps = list(ORDERS[place // 4])
    steps.insert(place % 4, "hue")
    for step in steps:
        if step == "hue":
            image = slow_hue(image, (2 * u[4] - 1) * config.hue)
            continue
        base = (0.0, gray_of(image).mean(), gray_of(image))[step]
        image = np.clip(factors[step] * image + (1 - factors[step]) * base, 0, 1)
    return image


def slow_recolor(image: np.ndarray, draws: np.ndarray, config: AugmentConfig) -> np.ndarray:
    u = draws[CROP_DRAWS + 1 :].astype(np.float64)
    image = slow_jitter(image.astype(np.float64), u, config)
    if u[6] < config.gray_prob:
        image = np.stack([gray_of(image)] * 3)
    if u[7] < config.blur_prob:
        sigma = config.min_sigma + u[8] * (config.max_sigma - config.min_sigma)
        reach = min(math.ceil(3 * config.max_sigma), image.shape[-1])
        sigmas = (0, sigma, sigma)
        image = scipy.ndimage.gaussian_filter(
            image, sigmas, mode="reflect", radius=(0, reach, reach)
        )
    if u[9] < config.solarize_prob:
        image = np.where(image >= 128 / 255, 1 - image, image)
    return image


# ---------------------------------------------------------------------- crops


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_batch_equals_single_images(dtype):
    images = np.stack([photo(seed=n) for n in range(6)])
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    masks = np.random.default_rng(0).integers(0, 5, images.shape[:3]).astype(np.int32)
    draws = tf.constant(many_draws(6))
    batch, batch_masks = crop_resize_batch(tf.constant(images), draws, ALL, tf.constant(masks))
    for n in range(6):
        one, mask = crop_resize(tf.constant(images[n]), draws[n], ALL, tf.constant(masks[n]))
        np.testing.assert_allclose(batch[n], one, atol=2e-5)
        np.testing.assert_array_equal(batch_masks[n], mask)
    assert crop_resize_batch(tf.constant(images), draws, ALL)[1] is None


def test_a_flip_mirrors_view_and_mask():
    image, mask = photo(), np.arange(24 * 20).reshape(24, 20)
    for seed in range(4):
        plain, plain_mask = augment(image, tf.constant([seed, 0]), PLAIN, mask)
        turned = dataclasses.replace(PLAIN, flip_prob=1.0)
        flipped, flipped_mask = augment(image, tf.constant([seed, 0]), turned, mask)
        np.testing.assert_array_equal(flipped, plain[:, ::-1])
        np.testing.assert_array_equal(flipped_mask, plain_mask[:, ::-1])


def test_masks_are_cropped_along():
    """An image painted by its own label map: colors and labels must go on agreeing."""
    labels = np.kron(np.arange(16).reshape(4, 4), np.ones((16, 16), int))
    colors = np.stack([labels * 16, labels[::-1] * 16, labels.T * 16], -1).astype(np.uint8)
    config = dataclasses.replace(PLAIN, image_size=48, flip_prob=0.5)
    agree = []
    for seed in range(12):
        view, mask = augment(colors, tf.constant([seed, 3]), config, labels)
        assert mask.dtype == tf.int32
        agree.append(np.mean(np.rint(view[..., 0] * 255 / 16) == mask))
    # Bicubic blends the two sides of an edge; everything else must agree.
    assert min(agree) > 0.85


# ---------------------------------------------------------------------- colors


def test_hue_equals_colorsys_and_tf_image():
    images = planes(4)
    images[0, :, 0, 0] = 0.0  # black, gray and white have no hue
    images[0, :, 0, 1] = 0.5
    images[0, :, 0, 2] = 1.0
    images[0, :, 0, 3] = (1, 1, 0)  # two equal maxima
    turns = np.array([0.3, -0.2, 0.0, 0.5], np.float32)
    got = shift_hue(tf.constant(images), tf.constant(turns)).numpy()
    for image, turn, ours in zip(images, turns, got, strict=True):
        np.testing.assert_allclose(ours, slow_hue(image, turn), atol=1e-5)
        theirs = tf.image.adjust_hue(np.moveaxis(image, 0, -1), turn)
        np.testing.assert_allclose(np.moveaxis(ours, 0, -1), theirs, atol=1e-5)


@pytest.mark.parametrize(("side", "max_sigma"), [(16, 2.0), (5, 2.0), (9, 0.4)])
def test_blur_equals_scipy(side, max_sigma):
    images, sigma = planes(3, side), np.array([0.1, 0.5, 1.0]) * max_sigma
    got = gaussian_blur(tf.constant(images), tf.constant(sigma, tf.float32), max_sigma).numpy()
    reach = min(math.ceil(3 * max_sigma), side)
    for image, s, ours in zip(images, sigma, got, strict=True):
        wanted = scipy.ndimage.gaussian_filter(
            image.astype(float), (0, s, s), mode="reflect", radius=(0, reach, reach)
        )
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_solarize_inverts_from_128_on():
    levels = np.arange(256, dtype=np.float32) / 255
    wanted = [(255 - v if v >= 128 else v) / 255 for v in range(256)]
    np.testing.assert_allclose(solarize(tf.constant(levels)), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"jitter_prob": 1.0, "gray_prob": 0, "blur_prob": 0, "solarize_prob": 0},
        {"jitter_prob": 1.0, "hue": 0.0, "gray_prob": 0.5, "blur_prob": 0},
        {"jitter_prob": 0, "gray_prob": 1.0, "blur_prob": 1.0, "solarize_prob": 1.0},
        {"brightness": 1.5, "contrast": 0, "saturation": 0.2, "hue": 0.5},
    ],
)
def test_recolor_equals_the_slow_transcription(change):
    config = dataclasses.replace(ALL, **change)
    images, draws = planes(48), many_draws(48)
    got = recolor(tf.constant(images), tf.constant(draws), config).numpy()
    for image, drawn, ours in zip(images, draws, got, strict=True):
        wanted = slow_recolor(image, drawn, config)
        # Next to the threshold of solarize, float32 and float64 may fall on different sides.
        close = np.abs(ours - wanted) < 2e-5
        assert close.mean() > 0.999


def test_every_order_of_the_jitters_occurs_equally_often():
    assert sorted(ORDERS) == sorted(set(ORDERS))
    assert len(ORDERS) == 6
    places = (np.random.default_rng(0).random(24_000) * 24).astype(int)
    assert np.bincount(places, minlength=24).min() > 850


def test_probabilities_are_kept():
    count = 2000
    images, draws = tf.constant(planes(count, 2)), tf.constant(many_draws(count))
    for field, wanted in (("jitter_prob", 0.8), ("gray_prob", 0.2), ("solarize_prob", 0.4)):
        off = {"jitter_prob": 0, "gray_prob": 0, "blur_prob": 0, "solarize_prob": 0}
        config = dataclasses.replace(ALL, **(off | {field: wanted}))
        changed = (recolor(images, draws, config).numpy() != images.numpy()).any((1, 2, 3))
        # Four standard errors; solarize leaves an image of dark pixels as it is.
        assert abs(changed.mean() - wanted) < 4 * math.sqrt(0.25 / count), field


def test_without_any_color_change_planes_pass_through():
    images, draws = tf.constant(planes(4)), tf.constant(many_draws(4))
    np.testing.assert_array_equal(recolor(images, draws, PLAIN), images)
    still = dataclasses.replace(
        PLAIN, jitter_prob=1.0, brightness=0, contrast=0, saturation=0, hue=0
    )
    np.testing.assert_allclose(recolor(images, draws, still), images, atol=1e-6)


# ---------------------------------------------------------------------- the whole view


def test_one_view_is_its_parts():
    image, seed = photo(), tf.constant([5, 9])
    drawn = draw(seed)
    cropped, _ = crop_resize(tf.constant(image), drawn, ALL)
    wanted = slow_recolor(cropped.numpy(), drawn.numpy(), ALL)
    np.testing.assert_allclose(
        np.moveaxis(augment(image, seed, ALL).numpy(), -1, 0), wanted, atol=2e-5
    )


def test_views_are_repeatable_inside_and_outside_of_tf_data():
    """Eagerly, twice, and in a parallel map: the same bits; other seeds: other views."""
    images = np.stack([photo(seed=n) for n in range(3)])
    masks = np.random.default_rng(0).integers(0, 9, images.shape[:3])
    seeds = np.stack([np.arange(3), np.full(3, 7)], 1)
    direct = [augment(*row[:2], ALL, row[2]) for row in zip(images, seeds, masks, strict=True)]
    again = [augment(*row[:2], ALL, row[2]) for row in zip(images, seeds, masks, strict=True)]
    rows = tf.data.Dataset.from_tensor_slices((images, seeds, masks))
    mapped = rows.map(lambda i, s, m: augment(i, s, ALL, m), num_parallel_calls=4)
    for (one, one_mask), (two, two_mask), (three, three_mask) in zip(
        direct, again, mapped, strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one_mask, two_mask)
        np.testing.assert_array_equal(one_mask, three_mask)
        np.testing.assert_array_equal(one, three)
    views = np.stack([augment(images[0], [n, 0], ALL) for n in range(4)])
    assert len(np.unique(views.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (200, 10), (16, 16)])
def test_any_image_size_gives_a_view_in_range(shape):
    view = augment(photo(*shape), tf.constant([1, 2]), ALL)
    assert view.shape == (16, 16, 3)
    assert view.dtype == tf.float32
    assert float(tf.reduce_min(view)) >= 0
    assert float(tf.reduce_max(view)) <= 1


def test_uint8_and_float_images_give_the_same_view():
    image = photo()
    scaled = (image / 255).astype(np.float32)
    ours = augment(image, [1, 1], ALL)
    np.testing.assert_allclose(ours, augment(scaled, [1, 1], ALL), atol=1e-6)
    np.testing.assert_allclose(ours, augment(scaled.astype(np.float64), [1, 1], ALL), atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gray_prob": 1.5},
        {"flip_prob": -0.1},
        {"image_size": 0},
        {"brightness": -1.0},
        {"hue": 0.6},
        {"min_scale": 0.0},
        {"max_scale": 1.5},
        {"min_scale": 0.9, "max_scale": 0.5},
        {"min_ratio": 2.0, "max_ratio": 1.0},
        {"min_sigma": 3.0},
        {"jitter_prob": math.nan},
        {"saturation": math.nan},
    ],
)
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
