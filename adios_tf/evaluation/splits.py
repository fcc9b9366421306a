"""Seeded, class-balanced cuts of a labeled train split."""

import numpy as np

from adios_tf.errors import UserError


def _per_class(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Returns the shuffled indices of every class; a class's order is its own."""
    groups = []
    for label in np.unique(labels):
        rng = np.random.default_rng([seed, max(int(label), 0)])  # -1 where nothing is labeled
        groups.append(rng.permutation(np.flatnonzero(labels == label)))
    return groups


def label_fraction_indices(labels: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Returns sorted indices of the same share of every class of labels [n], at least one of each.

    With one seed a smaller share is a subset of a larger one; 0.01 is the papers' 1 %. `UserError`
    for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"label fraction {fraction}: give a share above 0 and at most 1")
    groups = _per_class(np.asarray(labels), seed)
    chosen = [group[: max(1, round(fraction * len(group)))] for group in groups]
    return np.sort(np.concatenate(chosen))


def split_validation(
    labels: np.ndarray, fraction: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted indices of a train part and of a validation part, a share of every class.

    A class keeps at least one example for training and, if it has two, gives one away. Where images
    have several labels, [n,C] instead of [n], the part is drawn from all alike. `UserError` for a
    fraction outside (0, 1), or where no class has two examples.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation fraction {fraction}: give a share between 0 and 1")
    train, held = [], []
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = np.zeros(len(labels), int)
    for group in _per_class(labels, seed):
        count = min(max(1, round(fraction * len(group))), len(group) - 1)
        held.append(group[:count])
        train.append(group[count:])
    held = np.sort(np.concatenate(held))
    if not len(held):
        raise UserError(
            "no class has two labeled examples, so nothing can be held out for validation; "
            "give a single value instead of a sweep"
        )
    return np.sort(np.concatenate(train)), held
