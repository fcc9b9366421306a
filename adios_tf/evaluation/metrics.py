"""Top-1 and top-n accuracy from scores."""

import numpy as np


def rank_classes(scores: np.ndarray, n: int) -> np.ndarray:
    """Returns the n best classes of scores [B,C], best first, as [B,min(n,C)].

    Equal scores rank by class number, so the result is the same everywhere.
    """
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :n]


def top_accuracy(ranked: np.ndarray, labels: np.ndarray, n: int = 1) -> float:
    """Returns the share of rows of ranked [B,>=1] that hold their label [B] in the first n."""
    return float((ranked[:, :n] == np.asarray(labels)[:, None]).any(axis=1).mean())
