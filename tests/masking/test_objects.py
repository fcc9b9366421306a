"""Ground-truth masks and their ablations against SciPy's morphology."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import ndimage

from adios_tf.errors import UserError
from adios_tf.masking import Objects
from adios_tf.masking.objects import bounding_box, dilate, erode

few = hypothesis.settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**16)
SEED = tf.constant([1, 2])


def blobs(seed, rows=3, side=20, labels=4):
    """Label maps [rows,side,side] with a few rectangles each, 0 = background."""
    draw, truth = np.random.default_rng(seed), np.zeros((rows, side, side), np.int32)
    for image in truth:
        for label in range(1, labels + 1):
            top, left = draw.integers(0, side - 4, 2)
            height, width = draw.integers(1, side // 2, 2)
            image[top : top + height, left : left + width] = label
    return truth


def masks(masking, truth):
    images = tf.zeros((*truth.shape, 3))
    return masking.masks(images, tf.constant(truth), SEED).numpy()


@few
@hypothesis.given(SEEDS, st.integers(2, 7), st.sampled_from(["none", "erosion", "dilation", "box"]))
def test_the_last_slot_is_what_is_left(seed, number, morph):
    drawn = masks(Objects(number, object_morph=morph, morph_size=3), blobs(seed))
    assert drawn.shape[-1] == number
    union = drawn[..., :-1].max(-1)
    np.testing.assert_array_equal(drawn[..., -1], 1 - union)


@few
@hypothesis.given(SEEDS)
def test_slots_are_the_labels(seed):
    truth = blobs(seed)
    drawn = masks(Objects(4), truth)
    for slot in range(3):
        np.testing.assert_array_equal(drawn[..., slot], truth == slot + 1)
    np.testing.assert_array_equal(drawn[..., 3], (truth == 0) | (truth == 4))


@few
@hypothesis.given(SEEDS, st.integers(1, 5))
def test_morphology_is_scipys(seed, side):
    binary = (blobs(seed) > 0).astype(np.float32)
    square, even = np.ones((side, side)), side % 2 == 0
    # SciPy mirrors the square for dilation alone, which matters where it has no middle pixel.
    for grown, ours, outside, origin in (
        (ndimage.binary_dilation, dilate, 0, 0),
        (ndimage.binary_erosion, erode, 1, -1 if even else 0),
    ):
        place = {"border_value": outside, "origin": origin}
        expected = [grown(image, square, **place) for image in binary]
        np.testing.assert_array_equal(ours(tf.constant(binary[..., None]), side)[..., 0], expected)


@few
@hypothesis.given(SEEDS)
def test_boxes_are_the_smallest(seed):
    binary = (blobs(seed) == 2).astype(np.float32)
    ours = bounding_box(tf.constant(binary[..., None])).numpy()[..., 0]
    for image, box in zip(binary, ours, strict=True):
        expected = np.zeros_like(image)
        if image.any():
            (place,) = ndimage.find_objects(image.astype(int))
            expected[place] = 1
        np.testing.assert_array_equal(box, expected)


def test_shuffling_exchanges_whole_sets():
    truth = blobs(0, rows=12)
    drawn = masks(Objects(4, object_shuffle=True), truth)
    plain = masks(Objects(4), truth)
    assert sorted(m.tobytes() for m in drawn) == sorted(m.tobytes() for m in plain)
    assert (drawn != plain).any()
    np.testing.assert_array_equal(drawn.sum(-1), 1)


def test_refused_with_advice():
    with pytest.raises(UserError, match="has no masks"):
        Objects().masks(tf.zeros((1, 4, 4, 3)), None, SEED)
    with pytest.raises(UserError, match="at least 2"):
        Objects(num_masks=1)
    with pytest.raises(UserError, match="box, dilation, erosion, none"):
        Objects(object_morph="opening")
