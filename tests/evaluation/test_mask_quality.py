"""Mask scores: by hand, against scikit-learn, and as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, average_precision_score, jaccard_score

from adios_tf.errors import UserError
from adios_tf.evaluation import mask_quality
from adios_tf.reporting.panels import segmentation

# Background on top, object 1 left, object 2 right; the prediction shifts the border by one.
TRUE = np.array([[0, 0, 0, 0], [1, 1, 2, 2]])
FOUND = np.array([[5, 5, 5, 5], [7, 7, 7, 6]])


def maps(seed, count=3, side=9, labels=4):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, labels, (count, side, side))
    true[:, 0, :3] = [0, 1, 2]
    return true, rng.integers(0, labels + 1, (count, side, side))


def test_by_hand():
    # IoU: background 4/4; object 1: 2/3; object 2: 1/3 with slot 7 is 1/4, with slot 6 is 1/2.
    np.testing.assert_allclose(
        mask_quality.iou_matrix(TRUE, FOUND), [[1, 0, 0], [0, 0, 2 / 3], [0, 1 / 2, 1 / 4]]
    )
    mean, by_size = mask_quality.covering(TRUE, FOUND)
    assert mean == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert by_size == pytest.approx((4 * 1 + 2 * 2 / 3 + 2 * 1 / 2) / 8)
    mean, by_size = mask_quality.covering(TRUE, FOUND, foreground=True)
    assert mean == by_size == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mask_quality.matched_iou(TRUE, FOUND) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Object 1: recall 1, precision 2/3. Object 2: slot 6 has precision 1, recall 1/2, base 2/8.
    mean, _ = mask_quality.average_precision(TRUE, FOUND, foreground=True)
    assert mean == pytest.approx((2 / 3 + (1 / 2 + 1 / 2 * 2 / 8)) / 2)
    # Pairs of 8 pixels: 28; together in truth 8, in the prediction 9, in both 7.
    expected = 8 * 9 / 28
    assert mask_quality.rand_index(TRUE, FOUND) == pytest.approx((7 - expected) / (8.5 - expected))


def test_a_slot_serves_one_object_only():
    """One slot over everything covers both objects, but can be matched to one of them."""
    true, found = np.array([[1, 1, 2, 2]]), np.zeros((1, 4), int)
    assert mask_quality.covering(true, found)[0] == 0.5
    assert mask_quality.matched_iou(true, found) == 0.25


def test_scores_are_those_of_scikit_learn():
    true, found = maps(0)
    scores = mask_quality.mask_scores(true, found)
    for index, (one, other) in enumerate(zip(true, found, strict=True)):
        assert scores["ari"][index] == pytest.approx(
            adjusted_rand_score(one.ravel(), other.ravel())
        )
        shown = one > 0
        assert scores["ari_foreground"][index] == pytest.approx(
            adjusted_rand_score(one[shown], other[shown])
        )
        pairs = [
            [((one == a).ravel(), (other == b).ravel()) for b in np.unique(other)]
            for a in np.unique(one)
        ]
        best = [max(jaccard_score(a, b) for a, b in row) for row in pairs]
        assert scores["covering"][index] == pytest.approx(np.mean(best))
        best = [max(average_precision_score(a, b) for a, b in row) for row in pairs]
        assert scores["precision"][index] == pytest.approx(np.mean(best))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999))
def test_names_of_slots_and_order_of_pixels_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    true, found = maps(seed)
    names, places = rng.permutation(5), rng.permutation(81)

    def shuffled(label_maps):
        return label_maps.reshape(3, 81)[:, places].reshape(3, 9, 9)

    scores = mask_quality.mask_scores(true, found)
    again = mask_quality.mask_scores(shuffled(true), shuffled(names[found]))
    for name, values in scores.items():
        np.testing.assert_allclose(values, again[name], atol=1e-12, err_msg=name)
        assert (values <= 1).all()
        assert name.startswith("ari") or (values >= 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_the_truth_scores_one(seed):
    true, _ = maps(seed)
    for name, values in mask_quality.mask_scores(true, true + 3).items():
        np.testing.assert_allclose(values, 1.0, err_msg=name)


def test_ignored_pixels_change_nothing():
    true, found = maps(4)
    true[:, 5:] = -1
    for score in (
        mask_quality.rand_index,
        mask_quality.matched_iou,
        lambda *pair: mask_quality.covering(*pair)[0],
    ):
        assert score(true[0], found[0]) == pytest.approx(score(true[0, :5], found[0, :5]))


def test_without_foreground_there_is_no_foreground_score():
    scores = mask_quality.mask_scores(np.zeros((1, 4, 4), int), np.eye(4, dtype=int)[None])
    for name, values in scores.items():
        assert np.isnan(values).all() == name.endswith("foreground"), name
    one_object = mask_quality.mask_scores(np.eye(4, dtype=int)[None], np.eye(4, dtype=int)[None])
    assert np.isnan(one_object["ari_foreground"]).all()
    assert one_object["covering_foreground"] == 1.0


def test_masks_become_labels():
    masks = np.array([[[[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]]])
    assert segmentation(masks).tolist() == [[[1, 0]]]


def test_random_masks_score_near_zero_and_repeat():
    true, _ = maps(0, count=40, side=16)
    blobs = mask_quality.random_segmentation((40, 16, 16), 4, seed=3)
    assert set(np.unique(blobs)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(
        blobs[:5], mask_quality.random_segmentation((5, 16, 16), 4, seed=3)
    )
    assert (blobs != mask_quality.random_segmentation((40, 16, 16), 4, seed=4)).any()
    assert abs(mask_quality.mask_scores(true, blobs)["ari"].mean()) < 0.02
    neighbors = (blobs[:, 1:] == blobs[:, :-1]).mean()
    assert neighbors > 0.6  # blobs, not salt and pepper


def test_bad_input():
    with pytest.raises(UserError, match="label maps must both"):
        mask_quality.mask_scores(np.zeros((2, 3, 3)), np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match="no labeled pixel"):
        mask_quality.mask_scores(np.full((1, 3, 3), -1), np.zeros((1, 3, 3)))
