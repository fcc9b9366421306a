"""Corruptions: graded, repeatable, independent of the batch."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from adios_tf.errors import UserError
from adios_tf.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruption_scores


def pictures(count=6, side=32):
    """Color clouds with details of all sizes, so that every corruption changes something."""
    noise = np.random.default_rng(0).standard_normal((count, side, side, 3))
    clouds = sum(
        width * ndimage.gaussian_filter(noise, (0, width, width, 0.5)) for width in (0.5, 1, 2, 4)
    )
    return np.clip(128 + 60 * clouds, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption(name):
    images = pictures()
    levels = [corrupt(images, name, severity) for severity in SEVERITIES]
    distances = [np.abs(level.astype(float) - images).mean() for level in levels]
    assert (np.diff(distances) > 0).all(), "each severity is stronger than the one before"
    assert 0.3 < distances[0] < 30
    assert all(level.shape == images.shape and level.dtype == np.uint8 for level in levels)
    np.testing.assert_array_equal(levels[2], corrupt(images, name, 3))
    in_parts = [corrupt(images[:1], name, 3), corrupt(images[1:], name, 3, first_index=1)]
    np.testing.assert_array_equal(levels[2], np.concatenate(in_parts))
    as_float = corrupt(images / np.float32(255), name, 3).astype(int)
    assert (np.abs(as_float - levels[2]) <= 1).mean() > 0.99


def test_noise_is_seeded_and_new_for_every_image():
    same = np.repeat(pictures(1), 2, axis=0)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur"):
        first, second = corrupt(same, name, 3)
        assert (first != second).any(), name
        assert (corrupt(same, name, 3, seed=1) != corrupt(same, name, 3)).any(), name


def test_by_hand():
    gray = np.full((1, 8, 8, 3), 100, np.uint8)
    gray[0, 0, 0] = 200
    mean = gray.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(
        corrupt(gray, "contrast", 3), np.rint(mean + 0.4 * (gray - mean)).astype(np.uint8)
    )
    assert corrupt(gray, "brightness", 5)[0, 0, 0, 0] == 255
    assert corrupt(gray, "brightness", 1)[0, 5, 5, 0] == round(100 + 25.5)
    file = io.BytesIO()
    Image.fromarray(pictures()[0]).save(file, "JPEG", quality=25)
    np.testing.assert_array_equal(
        corrupt(pictures()[:1], "jpeg", 3)[0], np.asarray(Image.open(file))
    )
    noisy = corrupt(np.full((20, 32, 32, 3), 128, np.uint8), "gaussian_noise", 3) / 255
    assert noisy.std() == pytest.approx(0.12, rel=0.02)
    speckled = corrupt(np.full((20, 32, 32, 3), 128, np.uint8), "impulse_noise", 4)
    assert (speckled == 0).mean() == pytest.approx(0.05, rel=0.1)
    assert (speckled == 255).mean() == pytest.approx(0.05, rel=0.1)


def test_blurs_keep_the_mean_and_lines_blur_along_themselves():
    image = np.full((1, 32, 32, 3), 60, np.uint8)
    image[0, 14:18, 14:18] = 180
    for name in ("gaussian_blur", "motion_blur", "pixelate"):
        assert corrupt(image, name, 5).mean() == pytest.approx(image.mean(), rel=0.02), name


def test_the_summary_by_hand():
    found = corruption_scores(
        0.9, {("jpeg", 1): 0.8, ("jpeg", 2): 0.6, ("contrast", 1): 0.9, ("contrast", 2): 0.5}
    )
    assert found["jpeg"] == pytest.approx(0.7)
    assert found["contrast"] == pytest.approx(0.7)
    assert found["corruption_error"] == pytest.approx(0.3)
    assert found["corruption_error_rise"] == pytest.approx(0.2)


def test_bad_input():
    with pytest.raises(UserError, match="did you mean 'contrast'"):
        corrupt(pictures(), "contast", 1)
    with pytest.raises(UserError, match="severity=0"):
        corrupt(pictures(), "contrast", 0)
    with pytest.raises(UserError, match="no corruption"):
        corruption_scores(0.5, {})
