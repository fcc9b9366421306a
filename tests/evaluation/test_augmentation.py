"""Augmented batches: repeatable from (seed, epoch, index), and what shifts and crops do."""

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.data.augmentation import augment
from adios_tf.data.catalog import describe
from adios_tf.data.geometry import ImageSpec, evaluation_transform
from adios_tf.errors import UserError
from adios_tf.evaluation.augmentation import Augmentation, AugmentConfig, shift
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.data import open_split

LOOK = ImageSpec(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
ROWS = np.array([3, 8, 20, 21, 33])
KINDS = ("crop", "shift")


@pytest.fixture(params=["any sizes", "one size"], scope="module")
def split(request, pictures):
    name = "shapes" if request.param == "one size" else str(pictures)
    part = "test" if request.param == "one size" else "all"
    config = EvaluateConfig(dataset=name, batch_size=7)
    return open_split(config, describe(name), part, 40, LOOK)


def epochs(split, kind, rows=ROWS, batch=2, count=1, seed=1):
    """Returns images and labels [epochs, m, ...] in the order in which they come."""
    dataset = split.augmented(rows, batch, count, seed, Augmentation(kind, 0.3))
    images, labels = zip(*dataset, strict=True)
    images, labels = np.concatenate(images), np.concatenate(labels)
    return images.reshape(count, len(rows), *images.shape[1:]), labels.reshape(count, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_repeat_and_differ_as_they_should(split, kind):
    images, labels = epochs(split, kind, count=2)
    assert images.shape == (2, 5, 16, 16, 3)
    for epoch in range(2):
        assert sorted(labels[epoch]) == sorted(split.labels[ROWS])
    again = epochs(split, kind, count=2)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    other, _ = epochs(split, kind, seed=2)
    totals = [np.sort(x.sum(axis=(1, 2, 3))) for x in (*images, other[0])]
    assert not np.allclose(totals[0], totals[1], atol=1e-2)
    assert not np.allclose(totals[0], totals[2], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_company(split, kind):
    together, _ = epochs(split, kind)
    alone, _ = epochs(split, kind, rows=ROWS[:1], batch=5)
    distances = np.abs(together[0] - alone[0]).reshape(5, -1).max(axis=1)
    assert (distances < 1e-4).sum() == 1


def test_crops_are_those_of_pretraining_without_colors(split):
    config = AugmentConfig(
        16, 0.3, jitter_prob=0, gray_prob=0, blur_prob=0, solarize_prob=0, flip_prob=0.5
    )
    found, _ = epochs(split, "crop", rows=np.array([8]))
    [example] = split._examples.dataset.skip(8).take(1)
    expected = augment(example["image"], tf.constant([1_000_003, 8], tf.int64), config)
    np.testing.assert_allclose(found[0, 0], (expected - LOOK.mean) / LOOK.std, atol=1e-4)


def test_shifts_move_and_mirror(split):
    """A shifted image is a window of the reflected image; both sides turn up."""
    found, _ = epochs(split, "shift", rows=np.array([8]), count=40)
    [example] = split._examples.dataset.skip(8).take(1)
    image = (evaluation_transform(example["image"], 16).numpy() - LOOK.mean) / LOOK.std
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = [
        (top, left, mirrored, padded[top : top + 16, left : left + 16][:, :: 1 - 2 * mirrored])
        for top in range(5)
        for left in range(5)
        for mirrored in (0, 1)
    ]
    seen = set()
    for one in found[:, 0]:
        matches = [key for *key, window in windows if np.allclose(one, window, atol=1e-4)]
        assert len(matches) == 1
        seen.add(tuple(matches[0]))
    assert {key[2] for key in seen} == {0, 1}
    assert {key[0] for key in seen} == set(range(5))


def test_shift_by_hand():
    image = tf.reshape(tf.range(16 * 16 * 3, dtype=tf.float32), [16, 16, 3])
    still = tf.constant([0.5, 0.5, 0.9])
    np.testing.assert_array_equal(shift(image, still), image)
    moved = shift(image, tf.constant([0.0, 0.999, 0.9])).numpy()
    np.testing.assert_array_equal(moved[2:, :-2], image[:-2, 2:])
    np.testing.assert_array_equal(shift(image, tf.constant([0.5, 0.5, 0.1])), image[:, ::-1])


def test_which_augmentation():
    auto = Augmentation()
    assert auto.line(32) == "shift by up to 4 px, flip"
    assert auto.line(96) == "crop from 0.08 of the area, flip"
    assert Augmentation("crop", 0.5).line(32) == "crop from 0.5 of the area, flip"
    with pytest.raises(UserError, match="known are auto, crop, shift"):
        Augmentation("flip")
