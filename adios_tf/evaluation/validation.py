"""Refusals that every protocol shares: one line each, before any work is done."""

import numpy as np

from adios_tf.errors import UserError

_ROWS = 65_536


def checked_features(features: np.ndarray, what: str) -> np.ndarray:
    """Returns features [n,D] as float32 without a copy where they are that already.

    Raises:
      UserError: not a matrix, empty, or with NaN or infinity in it.
    """
    features = np.asarray(features)
    if features.ndim != 2 or 0 in features.shape:
        raise UserError(f"{what} features must be a non-empty [n,D] array, got {features.shape}")
    for start in range(0, len(features), _ROWS):
        if not np.isfinite(features[start : start + _ROWS]).all():
            raise UserError(
                f"{what} features hold NaN or infinity: the encoder has diverged; "
                "evaluate an earlier checkpoint"
            )
    return features.astype(np.float32, copy=False)


def checked_labels(labels: np.ndarray, count: int, what: str, classes: int = 1) -> np.ndarray:
    """Returns labels [n] as int64.

    Args:
      count: how many there must be.
      what: "train" or "test", for the message.
      classes: how many different ones there must be at least.

    Raises:
      UserError: a missing label (-1), another length, or too few classes.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise UserError(f"{what} labels must be [{count}], one per example, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{what} labels must be integers, got {labels.dtype}")
    missing = int((labels < 0).sum())
    if missing:
        raise UserError(
            f"{missing} of {count} {what} labels are missing (-1): "
            "this protocol needs a labeled split"
        )
    if len(np.unique(labels)) < classes:
        raise UserError(
            f"the {what} split holds one class only: nothing can be told apart; "
            "choose another split or data set"
        )
    return labels.astype(np.int64, copy=False)


def checked_pair(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Returns both splits checked, and the number of classes (1 + the largest label).

    Raises:
      UserError: as `checked_features` and `checked_labels`, or widths that differ.
    """
    train_features = checked_features(train_features, "train")
    test_features = checked_features(test_features, "test")
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"train features have width {train_features.shape[1]}, test features "
            f"{test_features.shape[1]}: both must come from the same encoder"
        )
    train_labels = checked_labels(train_labels, len(train_features), "train", classes=2)
    test_labels = checked_labels(test_labels, len(test_features), "test")
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    return train_features, train_labels, test_features, test_labels, classes
