"""Refusals that every protocol shares: one line each, before any work is done."""

import numpy as np

from adios_tf.errors import NoLabels, UserError

_ROWS = 65_536


def checked_features(features: np.ndarray, what: str) -> np.ndarray:
    """Returns features [n,D] as float32 without a copy where they are that already.

    `UserError` unless they are a matrix, not empty, without NaN and infinity.
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


def checked_labels(
    labels: np.ndarray, count: int, what: str, classes: int = 1, several: bool = False
) -> np.ndarray:
    """Returns labels [n], or [n,C] of 0 and 1 where an image has several, as int64.

    There must be `count`, of at least so many `classes`, and only where `several` more than one per
    image; `what` is "train" or "test". Raises `NoLabels` for a missing label (-1) or too few
    classes, `UserError` for another length, or several labels where one may be.
    """
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,) or labels.ndim > 2:
        raise UserError(f"{what} labels must be [{count}], one per example, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{what} labels must be integers, got {labels.dtype}")
    missing = int((labels.reshape(count, -1) < 0).any(axis=1).sum())
    if missing:
        raise NoLabels(
            f"{missing} of {count} {what} labels are missing (-1): "
            "this protocol needs a labeled split"
        )
    if labels.ndim == 2:
        if not several:
            raise UserError(
                "this protocol needs one label per image, and the data set has several: "
                "knn, linear, linear_sgd, linear_augmented and finetune can do with that"
            )
        if labels.max(initial=0) > 1:
            raise UserError(f"several {what} labels per image are given as zeros and ones")
        if classes > 1 and not (labels != labels[:1]).any():
            raise NoLabels(f"all {what} images have the same labels: nothing can be told apart")
    elif len(np.unique(labels)) < classes:
        raise NoLabels(
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
    """Returns both splits checked, and the number of classes.

    That is 1 + the largest label, or C where images have several labels, [n,C] of 0 and 1.
    `UserError` as `checked_features` and `checked_labels`, or for widths that differ.
    """
    train_features = checked_features(train_features, "train")
    test_features = checked_features(test_features, "test")
    if train_features.shape[1] != test_features.shape[1]:
        raise UserError(
            f"train features have width {train_features.shape[1]}, test features "
            f"{test_features.shape[1]}: both must come from the same encoder"
        )
    train_labels = checked_labels(train_labels, len(train_features), "train", 2, several=True)
    test_labels = checked_labels(test_labels, len(test_features), "test", several=True)
    classes = number_of_classes(train_labels, test_labels)
    return train_features, train_labels, test_features, test_labels, classes


def number_of_classes(train_labels: np.ndarray, test_labels: np.ndarray) -> int:
    """Returns 1 + the largest label [n] of either split, or C of labels [n,C].

    `UserError` for splits whose labels are not of one kind.
    """
    if train_labels.shape[1:] != test_labels.shape[1:]:
        raise UserError(
            f"train labels are [n{_rest(train_labels)}], test labels [n{_rest(test_labels)}]: "
            "both splits must have the same classes"
        )
    if train_labels.ndim == 2:
        return train_labels.shape[1]
    return int(max(train_labels.max(), test_labels.max())) + 1


def _rest(labels: np.ndarray) -> str:
    return "".join(f",{side}" for side in labels.shape[1:])
