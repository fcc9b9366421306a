"""Cuts of the train split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adios_tf.errors import UserError
from adios_tf.evaluation.splits import label_fraction_indices, split_validation

LABELS = np.repeat([0, 1, 2], [1000, 500, 20])


def test_a_fraction_by_hand():
    chosen = label_fraction_indices(LABELS, 0.01, seed=3)
    assert np.bincount(LABELS[chosen]).tolist() == [10, 5, 1]
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(label_fraction_indices(LABELS, 1.0), np.arange(1520))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), fraction=st.floats(0.001, 1.0))
def test_fractions_are_balanced_seeded_and_nested(seed, fraction):
    labels = np.random.default_rng(seed).integers(0, 5, 200)
    chosen = label_fraction_indices(labels, fraction, seed)
    np.testing.assert_array_equal(chosen, label_fraction_indices(labels, fraction, seed))
    for label in np.unique(labels):
        size = (labels == label).sum()
        assert (labels[chosen] == label).sum() == max(1, round(fraction * size))
    assert set(chosen) <= set(label_fraction_indices(labels, min(1.0, 2 * fraction), seed))


def test_seeds_differ():
    assert (label_fraction_indices(LABELS, 0.1, 0) != label_fraction_indices(LABELS, 0.1, 1)).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), fraction=st.floats(0.01, 0.99))
def test_validation_is_disjoint_and_leaves_every_class(seed, fraction):
    labels = np.random.default_rng(seed).integers(0, 7, 60)
    train, held = split_validation(labels, fraction, seed)
    assert sorted([*train, *held]) == list(range(60))
    assert set(labels[train]) == set(labels)
    for label in np.unique(labels):
        assert (labels == label).sum() < 2 or (labels[held] == label).any()


def test_bad_input():
    for fraction in (0.0, -1.0, 1.5):
        with pytest.raises(UserError, match="label fraction"):
            label_fraction_indices(LABELS, fraction)
    with pytest.raises(UserError, match="validation fraction"):
        split_validation(LABELS, 1.0)
    with pytest.raises(UserError, match="nothing can be held out"):
        split_validation(np.arange(5))
