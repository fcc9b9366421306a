"""Linear probes against scikit-learn and against loops, and the choice on validation data."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from adios_tf.errors import UserError
from adios_tf.evaluation import linear
from adios_tf.evaluation.metrics import rank_classes, top_accuracy
from adios_tf.evaluation.probe_bank import first_head


def blobs(count, seed, dim=6, classes=3, noise=1.5):
    """Overlapping classes on a badly scaled, shifted basis."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((classes, dim))
    labels = rng.integers(0, classes, count)
    points = centers[labels] + noise * rng.standard_normal((count, dim))
    return (points * np.logspace(-2, 2, dim) + 7).astype(np.float32), labels


TRAIN, TEST = blobs(600, 0), blobs(400, 1)


def accuracy(result, labels=TEST[1]):
    return top_accuracy(rank_classes(result.scores, 1), labels)


def test_logistic_probe_is_that_of_scikit_learn():
    result = linear.logistic_probe(*TRAIN, *TEST, strengths=(0.01,))
    scaler = StandardScaler().fit(TRAIN[0])
    oracle = LogisticRegression(C=1 / (0.01 * 600), tol=1e-8, max_iter=1000)
    oracle.fit(scaler.transform(TRAIN[0]), TRAIN[1])
    expected = oracle.decision_function(scaler.transform(TEST[0]))
    np.testing.assert_allclose(result.scores, expected, atol=0.02)
    assert accuracy(result) == pytest.approx(oracle.score(scaler.transform(TEST[0]), TEST[1]))
    assert (result.chosen, result.validation, result.train_count) == (0.01, {}, 600)
    assert not result.note
    np.testing.assert_allclose(result.score(TEST[0][:7]), result.scores[:7], atol=1e-5)


def test_both_solvers_agree():
    closed = linear.logistic_probe(*TRAIN, *TEST)
    steps = linear.sgd_probe(*TRAIN, *TEST, epochs=30, decay_epochs=(18, 24), batch_size=64)
    assert abs(accuracy(closed) - accuracy(steps)) < 0.02
    assert accuracy(closed) > 0.6


def test_the_sweep_is_decided_on_validation_data():
    result = linear.logistic_probe(*TRAIN, *TEST, strengths=(1e4, 0.01), seed=2)
    assert result.chosen == 0.01
    assert set(result.validation) == {1e4, 0.01}
    assert result.validation[0.01] > result.validation[1e4]
    assert result.train_count == 600
    # Test labels must not matter to the choice, nor to the classifier.
    other = linear.logistic_probe(*TRAIN, TEST[0], TEST[1][::-1], strengths=(1e4, 0.01), seed=2)
    np.testing.assert_array_equal(result.scores, other.scores)


def test_ties_go_to_the_stronger_regularization():
    far = np.array([[-5.0], [5.0]] * 20), np.array([0, 1] * 20)
    assert linear.logistic_probe(*far, *far, strengths=(1e-3, 0.1, 1e-2)).chosen == 0.1


def test_a_solver_that_stops_early_says_so():
    result = linear.logistic_probe(*TRAIN, *TEST, strengths=(1e-6,), max_iterations=2)
    assert "2 iterations" in result.note


def test_a_class_that_was_never_seen_comes_last():
    labels = np.array([0, 2] * 10)
    points = labels[:, None].astype(float)
    result = linear.logistic_probe(points, labels, points, np.full(20, 3), strengths=(0.1,))
    assert result.scores.shape == (20, 4)
    ranked = rank_classes(result.scores, 4)
    np.testing.assert_array_equal(ranked[:, 0], labels)
    assert set(ranked[:, 2:].ravel()) == {1, 3}


def loop_sgd(batches, rate, epochs, decay_epochs):
    """One classifier, the plain way."""
    weights, bias = np.zeros((6, 3)), np.zeros(3)
    speeds = [np.zeros((6, 3)), np.zeros(3)]
    for epoch in range(epochs):
        step = rate * 0.1 ** sum(epoch >= at for at in decay_epochs)
        for inputs, targets in batches(epoch):
            logits = inputs @ weights + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(p)), targets] -= 1
            gradients = (inputs.T @ p / len(p), p.mean(0))
            speeds = [0.9 * s + g for s, g in zip(speeds, gradients, strict=True)]
            weights, bias = weights - step * speeds[0], bias - step * speeds[1]
    return weights, bias


def test_the_bank_is_a_loop_over_learning_rates():
    inputs = linear.Standardizer.of(TRAIN[0])(TRAIN[0])
    batches = linear.shuffled_batches(inputs, TRAIN[1], 64, seed=5)
    bank = linear.ProbeBank(6, 3, (0.01, 0.2)).fit(batches, epochs=4, decay_epochs=(2, 3))
    for which, rate in enumerate((0.01, 0.2)):
        weights, bias = loop_sgd(batches, rate, 4, (2, 3))
        np.testing.assert_allclose(
            bank.scores(inputs[:20], which), inputs[:20] @ weights + bias, atol=1e-4
        )


def test_learning_rates_do_not_touch_each_other():
    """A neighbor that diverges to NaN leaves the others alone and is not chosen."""
    settings = {"epochs": 3, "decay_epochs": (), "batch_size": 64}
    both = linear.sgd_probe(*TRAIN, *TEST, learning_rates=(0.05, 3e38), **settings)
    assert both.chosen == 0.05
    assert both.validation[3e38] == 0.0
    assert both.train_count == 540
    with pytest.raises(UserError, match="diverged"):
        linear.sgd_probe(*TRAIN, *TEST, learning_rates=(2e38, 3e38), **settings)


def test_a_single_rate_trains_on_everything_and_repeats():
    settings = {"learning_rates": (0.05,), "epochs": 2, "decay_epochs": ()}
    first, second = (linear.sgd_probe(*TRAIN, *TEST, **settings) for _ in range(2))
    assert (first.train_count, first.validation) == (600, {})
    np.testing.assert_array_equal(first.scores, second.scores)
    other = linear.sgd_probe(*TRAIN, *TEST, **settings, seed=1)
    assert (first.scores != other.scores).any()


def test_batches_cover_an_epoch_in_a_new_order():
    batches = linear.shuffled_batches(np.arange(10)[:, None], np.arange(10), 4, seed=0)
    orders = [np.concatenate([labels for _, labels in batches(epoch)]) for epoch in (0, 1, 0)]
    assert [len(labels) for _, labels in batches(0)] == [4, 4, 2]
    assert sorted(orders[0]) == list(range(10))
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(orders[0], orders[2])


def test_constant_features_stay_finite():
    features = np.ones((4, 2), np.float32)
    features[:, 1] = [0, 1, 2, 3]
    prepared = linear.Standardizer.of(features)(features)
    np.testing.assert_array_equal(prepared[:, 0], 0)
    assert prepared[:, 1].std() == pytest.approx(1)


def test_bad_input():
    for probe in (linear.logistic_probe, linear.sgd_probe):
        with pytest.raises(UserError, match="one class only"):
            probe(TRAIN[0], np.zeros(600, int), *TEST)
        with pytest.raises(UserError, match="missing"):
            probe(TRAIN[0], np.full(600, -1), *TEST)
        with pytest.raises(UserError, match="NaN"):
            probe(TRAIN[0] * np.nan, TRAIN[1], *TEST)
    with pytest.raises(UserError, match="above 0"):
        linear.logistic_probe(*TRAIN, *TEST, strengths=(0.0, 1.0))
    with pytest.raises(UserError, match="above 0"):
        linear.sgd_probe(*TRAIN, *TEST, learning_rates=())


def test_the_best_epoch_on_test_data_when_asked_for():
    """The rate is so large that accuracy jumps up and down; the best epoch is not the last."""
    seen = []

    def on_epoch(epoch, bank):
        found = bank.accuracies(*TEST)
        seen.append(*found.values())

    settings = {"learning_rates": (30.0,), "epochs": 6, "decay_epochs": (), "batch_size": 64}
    raw = settings | {"standardize": False, "head": "normal", "on_epoch": on_epoch}
    result = linear.sgd_probe(*TRAIN, *TEST, **raw, report="best")
    assert max(seen) > seen[-1]
    assert accuracy(result) == max(seen)
    assert result.note == f"epoch {1 + int(np.argmax(seen))}, the best on test data"
    last = linear.sgd_probe(*TRAIN, *TEST, **raw)
    assert (accuracy(last), last.note) == (seen[5], "")
    with pytest.raises(UserError, match="single learning rate"):
        linear.sgd_probe(*TRAIN, *TEST, report="best")


def test_a_last_batch_that_is_not_full():
    inputs = np.arange(10)[:, None]
    [first, second] = linear.shuffled_batches(inputs, np.arange(10), 4, 0, drop_last=True)(0)
    assert len(first[1]) == len(second[1]) == 4
    with pytest.raises(UserError, match="no batch of 601"):
        linear.sgd_probe(*TRAIN, *TEST, learning_rates=(0.1,), batch_size=601, drop_last=True)


@pytest.mark.parametrize(("name", "spread"), [("uniform", 0.1 / 3**0.5), ("normal", 0.01)])
def test_first_heads(name, spread):
    kernel, bias = first_head(name, 100, 50, 0)
    assert kernel.std() == pytest.approx(spread, rel=0.05)
    assert abs(kernel.mean()) < 0.05 * spread
    assert bias.any() == (name == "uniform")
    assert np.abs(bias).max() <= 0.1
    with pytest.raises(UserError, match="did you mean 'zeros'"):
        first_head("zero", 3, 3, 0)
