"""The kNN vote: by hand, against scikit-learn, and as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from adios_tf.errors import UserError
from adios_tf.evaluation import knn


def features(count, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def labels(count, classes=4, seed=1):
    drawn = np.random.default_rng(seed).integers(0, classes, count)
    drawn[:classes] = np.arange(classes)
    return drawn


def test_by_hand():
    """Three train points at cosines 1, 0.6, 0 of the query; two of them are of class 1."""
    train = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    classes = np.array([0, 1, 1])
    query, wanted = np.array([[7.0, 0.0]]), np.array([0])
    values, indices = knn.nearest(train, query, 3)
    np.testing.assert_allclose(values, [[1.0, 0.6, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(indices, [[0, 1, 2]])
    votes = knn.vote(values, classes[indices], 2, temperature=0.5)
    np.testing.assert_allclose(votes, [[1.0, np.exp(-0.8) + np.exp(-2.0)]], atol=1e-6)
    # exp(-0.8/T) + exp(-2/T) overtakes 1 where T is large.
    assert knn.knn_accuracy(train, classes, query, wanted, (3,), 0.5)[3]["top1"] == 1.0
    assert knn.knn_accuracy(train, classes, query, wanted, (3,), 5.0)[3]["top1"] == 0.0
    assert knn.knn_accuracy(train, classes, query, wanted, (1, 3), 5.0)[1]["top1"] == 1.0


def test_euclidean_by_hand():
    train, classes = np.array([[0.0], [3.0], [4.0]]), np.array([0, 1, 1])
    values, indices = knn.nearest(train, np.array([[1.0]]), 3, "euclidean")
    np.testing.assert_allclose(values, [[1.0, 2.0, 3.0]])
    votes = knn.vote(values, classes[indices], 2, distance="euclidean")
    np.testing.assert_allclose(votes, [[1.0, 1 / 2 + 1 / 3]], atol=1e-4)


@pytest.mark.parametrize("count", [300, 4096, 9000])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbors_are_those_of_scikit_learn(count, distance):
    train, queries = features(count, 16), features(40, 16, seed=5)
    oracle = NearestNeighbors(n_neighbors=50, algorithm="brute", metric=distance)
    expected, order = oracle.fit(train.astype(np.float64)).kneighbors(queries)
    values, indices = knn.nearest(train, queries, 50, distance)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(
        values, 1 - expected if distance == "cosine" else expected, atol=1e-6
    )


def test_votes_are_those_of_scikit_learn():
    train, queries, train_labels = features(500), features(90, seed=5), labels(500)
    oracle = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(train, train_labels)
    ours = knn.knn_predict(train, train_labels, queries, labels(90), k=(20,))[20]
    np.testing.assert_array_equal(ours[:, 0], oracle.predict(queries))


def test_tiny_temperatures_do_not_overflow():
    train = features(100)
    found = knn.knn_accuracy(train, labels(100), train, labels(100), (20,), temperature=0.001)
    assert found[20]["top1"] == 1.0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(5, 60),
    distance=st.sampled_from(knn.DISTANCES),
    k=st.integers(1, 5),
)
def test_any_order_of_the_train_set_votes_the_same(seed, count, distance, k):
    rng = np.random.default_rng(seed)
    train, train_labels, queries = features(count, seed=seed), labels(count), features(9, seed=77)
    order = rng.permutation(count)
    arguments = {"k": (k,), "distance": distance}
    first = knn.knn_predict(train, train_labels, queries, labels(9), **arguments)[k]
    second = knn.knn_predict(train[order], train_labels[order], queries, labels(9), **arguments)[k]
    np.testing.assert_array_equal(first, second)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(1, 699), distance=st.sampled_from(knn.DISTANCES))
def test_any_batch_of_queries_gives_the_same_bits(seed, cut, distance):
    train, queries = features(600, seed=seed), features(700, seed=seed + 1)
    whole = knn.nearest(train, queries, 10, distance)
    parts = [knn.nearest(train, part, 10, distance) for part in (queries[:cut], queries[cut:])]
    for all_at_once, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(all_at_once, np.concatenate(pieces))


@pytest.mark.parametrize(("queries", "train"), [(8, 64), (64, 16), (512, 512)])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_any_block_size_gives_the_same_neighbors(monkeypatch, queries, train, distance):
    """Also with every train feature there three times over: ties go to the lower index."""
    base = features(200)
    data = np.concatenate([base, base, base])
    expected = knn.nearest(data, base[:50], 20, distance)[1]
    assert (np.sort(expected[:, :3] % 200, axis=1) == np.arange(50)[:, None]).all()
    assert (np.diff(expected[:, :3]) == 200).all()
    monkeypatch.setattr(knn, "_QUERIES", queries)
    monkeypatch.setattr(knn, "_TRAIN", train)
    np.testing.assert_array_equal(knn.nearest(data, base[:50], 20, distance)[1], expected)


def test_a_collapsed_encoder_ties_in_index_order():
    ones = np.ones((5000, 3), np.float32)
    values, indices = knn.nearest(ones, ones[:4], 7)
    np.testing.assert_array_equal(indices, np.tile(np.arange(7), (4, 1)))
    np.testing.assert_allclose(values, 1.0, atol=1e-6)


def test_keys_sort_as_scores_do():
    """By score, and equal scores by the lower index; -0 (an underflow) equals +0."""
    scores = np.array([-0.0, 1.5, 0.0, -2.0, 1.5, -1e-30, np.float32(1e38)], np.float32)
    keys = knn._pack(scores, np.arange(7))
    assert np.argsort(-keys).tolist() == [6, 1, 4, 0, 2, 5, 3]
    np.testing.assert_array_equal(knn._scores(keys), scores)


def test_euclidean_between_close_points_far_out():
    """Distances of 0.01 between points of norm 2e3: expanding the square would lose them."""
    corners = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [1, -1, -1, 1], [-1, -1, 1, -3]]) * 1e3
    steps = np.array([9, 4, 1, 0, 5, 2, 8, 3, 7, 6])[:, None] * np.array([0.01, 0, 0, 0])
    train = (corners[:, None] + steps).reshape(-1, 4).astype(np.float32)
    values, indices = knn.nearest(train, train[[3, 13, 23]], 3, "euclidean")
    assert (indices - [[0], [10], [20]]).tolist() == [[3, 2, 5]] * 3
    np.testing.assert_allclose(values, [[0, 0.01, 0.02]] * 3, atol=1e-4)


def test_places_without_a_vote_are_empty():
    ranked = knn.knn_predict(np.eye(6), np.arange(6), np.eye(6), np.arange(6), k=(2,))[2]
    assert ranked.shape == (6, 2)
    assert (knn.knn_rank(np.ones((1, 3)), np.zeros((1, 3), int), 9) == [[0, -1, -1]]).all()


def test_bad_input():
    train, classes = features(30), labels(30)
    good = (train, classes, train, classes)

    def refused(match, *data, **settings):
        with pytest.raises(UserError, match=match):
            knn.knn_accuracy(*data, **settings)

    refused("choose k between", *good, k=(31,))
    refused("choose k between", *good, k=(0,))
    refused("no k was given", *good, k=())
    refused("temperature", *good, k=(1,), temperature=0.0)
    refused("did you mean 'cosine'", *good, k=(1,), distance="cosin")
    refused("one class only", train, np.zeros(30, int), train, classes, k=(1,))
    refused("30 of 30 test labels are missing", train, classes, train, np.full(30, -1), k=(1,))
    refused("train labels must be", train, classes[:5], train, classes, k=(1,))
    refused("must be integers", train, classes.astype(float), train, classes, k=(1,))
    refused("same encoder", train, classes, train[:, :3], classes, k=(1,))
    bad = train.copy()
    bad[3, 2] = np.nan
    refused("NaN", bad, classes, train, classes, k=(1,))
    refused("NaN", train, classes, bad * np.inf, classes, k=(1,))
    refused("non-empty", train[:0], classes[:0], train, classes, k=(1,))
