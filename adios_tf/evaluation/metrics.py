"""Top-1 and top-n accuracy from scores; F1 where images have several labels."""

import numpy as np
from sklearn.metrics import f1_score


def rank_classes(scores: np.ndarray, n: int) -> np.ndarray:
    """Returns the n best classes of scores [B,C], best first, as [B,min(n,C)].

    Equal scores rank by class number, so the result is the same everywhere.
    """
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :n]


def top_accuracy(ranked: np.ndarray, labels: np.ndarray, n: int = 1) -> float:
    """Returns the share of rows of ranked [B,>=1] that hold their label [B] in the first n."""
    return float((ranked[:, :n] == np.asarray(labels)[:, None]).any(axis=1).mean())


def multi_label_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns F1 and the share of right decisions of scores [n,C], with labels [n,C] of 0 and 1.

    A class is predicted where its score (such as a logit) is > 0. As the official ADIOS code: F1
    over all decisions (micro), averaged over classes (macro) and averaged with weights, which are
    how often a class is *predicted*. A class that is neither there nor predicted counts 1.
    """
    predicted, labels = np.asarray(scores) > 0, np.asarray(labels) > 0
    found = {
        f"f1_{average}": float(f1_score(predicted, labels, average=average, zero_division=1.0))
        for average in ("micro", "macro", "weighted")
    }
    return found | {"label_accuracy": float((predicted == labels).mean())}


def accuracies(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns top-1 and top-5 accuracy of ranked classes [Q,n] and labels [Q].

    Where images have several labels, [Q,C], `predicted` are scores: see `multi_label_scores`.
    """
    if np.ndim(labels) == 2:
        return multi_label_scores(predicted, labels)
    return {f"top{n}": top_accuracy(predicted, labels, n) for n in (1, 5)}


def agreement(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the first of `accuracies`, of scores [Q,C]: top-1, or micro F1 of several labels."""
    if labels.ndim == 1:
        predicted = rank_classes(predicted, 1)
    return next(iter(accuracies(predicted, labels).values()))
