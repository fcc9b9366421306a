"""k-means scores."""

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.evaluation.clustering import SCORES, cluster_scores


def test_separate_clusters_score_one():
    labels = np.repeat([0, 3, 7], 20)
    features = 10 * np.eye(3)[np.repeat([0, 1, 2], 20)] + 0.1 * np.random.rand(60, 3)
    for values in cluster_scores(features, labels, seeds=(0, 1)).values():
        np.testing.assert_allclose(values, [1.0, 1.0])


def test_by_hand():
    """Two tight pairs; the labels join the first pair and split the second."""
    features = np.array([[0.0], [0.1], [9.0], [9.1]])
    found = cluster_scores(features, np.array([0, 0, 0, 1]), seeds=(0,))
    # Pairs together: 3 by label, 2 by cluster, 1 by both.
    assert found["fmi"][0] == pytest.approx(1 / np.sqrt(6))
    expected = 3 * 2 / 6
    assert found["ari"][0] == pytest.approx((1 - expected) / (2.5 - expected))
    joint = 0.5 * np.log(0.5 / (0.5 * 0.75)) + 0.25 * np.log(0.25 / (0.5 * 0.75))
    joint += 0.25 * np.log(0.25 / (0.5 * 0.25))
    entropies = np.log(2) - 0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    assert found["nmi"][0] == pytest.approx(2 * joint / entropies)


def test_repeats_and_has_a_spread():
    features = np.random.default_rng(0).standard_normal((200, 5))
    labels = np.random.default_rng(1).integers(0, 6, 200)
    first, second = (cluster_scores(features, labels, seeds=(0, 1, 2)) for _ in range(2))
    assert set(first) == set(SCORES)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
        assert np.ptp(values) > 0
        assert abs(values.mean()) < 0.05 or name != "ari"


def test_normalizing_forgets_length():
    angles = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    lengths = np.tile([1.0, 100.0], 20)[:, None]
    labels = np.repeat([0, 1], 20)
    assert cluster_scores(angles * lengths, labels, normalize=True)["ari"].mean() == 1.0
    assert cluster_scores(angles * lengths, labels)["ari"].mean() < 0.9


def test_bad_input():
    features = np.zeros((5, 2))
    with pytest.raises(UserError, match="one class only"):
        cluster_scores(features, np.zeros(5, int))
    with pytest.raises(UserError, match="missing"):
        cluster_scores(features, np.array([0, 1, -1, 0, 1]))
    with pytest.raises(UserError, match="NaN"):
        cluster_scores(features * np.nan, np.arange(5))
    with pytest.raises(UserError, match="no seed"):
        cluster_scores(features, np.arange(5), seeds=())
