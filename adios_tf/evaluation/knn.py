"""The k-nearest-neighbor vote: exact, several k from one search, any number of features.

Weights follow the official ADIOS evaluation: exp(cos / T) on l2-normalized features, or
1 / (distance + 1e-5). Departures: the largest similarity is subtracted before `exp`, which
cannot overflow at small T; k larger than the train set is refused, not cut; the number of
classes comes from both splits; k and T are fixed and never chosen on test data.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.metrics import accuracies, rank_classes
from adios_tf.evaluation.validation import checked_features, checked_pair
from adios_tf.registry import check_choice

DISTANCES = ("cosine", "euclidean")

# Every matrix product has this shape (smaller ones are padded), so a score never depends on
# how many other queries or train features there are, nor on where among them it stands.
_QUERIES, _TRAIN = 512, 4096
_EXACT_ROWS = 64
_SLACK = 32  # Euclidean candidates beyond k, since rounding may swap close ones in the search
_LOW_BITS = np.int64(0xFFFFFFFF)


def _ordered(scores: np.ndarray) -> np.ndarray:
    """Returns int32 that compare as the float32 scores do, or the scores of such int32."""
    bits = scores.view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def _pack(scores: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns int64 keys that sort by score, equal scores by the lower index first."""
    positive_zero = scores + np.float32(0)
    return (_ordered(positive_zero).astype(np.int64) << 32) | (_LOW_BITS - indices)


def _scores(keys: np.ndarray) -> np.ndarray:
    return _ordered((keys >> 32).astype(np.int32)).view(np.float32)


def _largest(keys: np.ndarray, k: int) -> np.ndarray:
    surplus = keys.shape[1] - k
    return np.partition(keys, surplus, axis=1)[:, surplus:] if surplus > 0 else keys


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) == count:
        return rows
    return np.concatenate([rows, np.zeros((count - len(rows), rows.shape[1]), rows.dtype)])


def _search(queries: np.ndarray, train: np.ndarray, offset: np.ndarray, k: int) -> np.ndarray:
    """Returns sorted keys [Q,k] of the k largest queries @ train.T + offset."""
    best = np.empty((len(queries), 0), np.int64)
    tile = _padded(queries, _QUERIES)
    for start in range(0, len(train), _TRAIN):
        block = train[start : start + _TRAIN]
        scores = (tile @ _padded(block, _TRAIN).T)[: len(queries), : len(block)]
        scores += offset[start : start + len(block)]
        if best.shape[1] < k:
            indices = np.arange(start, start + len(block))
            best = _largest(np.concatenate([best, _pack(scores, indices)], axis=1), k)
            continue
        # A newcomer must beat the k-th score; on a tie the earlier index stays.
        newcomers = np.flatnonzero(scores > _scores(best.min(axis=1))[:, None])
        row, column = np.divmod(newcomers, scores.shape[1])
        count = np.bincount(row, minlength=len(queries))
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        keys = np.full((len(queries), k + count.max()), np.iinfo(np.int64).min)
        keys[:, :k] = best
        keys[row, k + place] = _pack(scores[row, column], start + column)
        best = _largest(keys, k)
    return np.sort(best, axis=1)[:, ::-1]


def _exact_distances(
    queries: np.ndarray, train: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Euclidean distances [Q,k] from differences, and indices [Q,k], nearest first.

    |q|^2 + |t|^2 - 2 q.t, which the search uses, loses all digits between near neighbors.
    """
    distances = np.empty(indices.shape, np.float64)
    for start in range(0, len(queries), _EXACT_ROWS):
        rows = slice(start, start + _EXACT_ROWS)
        difference = queries[rows, None].astype(np.float64) - train[indices[rows]]
        distances[rows] = np.sqrt(np.einsum("qkd,qkd->qk", difference, difference))
    order = np.lexsort((indices, distances), axis=-1)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)


def _unit_rows(features: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))
    return features / np.maximum(norms, 1e-12)[:, None]


def nearest(
    train_features: np.ndarray,
    queries: np.ndarray,
    k: int,
    distance: str = "cosine",
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest train features [n,D] of every query [Q,D], exactly.

    A tie goes to the lower train index. Beside its input it holds one float32 copy of the train
    features and some 30 MB per processor core. The distance is "cosine" (larger similarity is
    nearer) or "euclidean"; `progress` shows a bar when it takes longer than two seconds.

    Returns values [Q,k] and indices [Q,k] int64, nearest first; values are cosine similarities or
    Euclidean distances. `UserError` for NaN features, k that is not 1 to n, or an unknown distance.
    """
    check_choice("distance", distance, DISTANCES)
    train_features = checked_features(train_features, "train")
    queries = checked_features(queries, "test")
    if not 1 <= k <= len(train_features):
        raise UserError(
            f"k={k} neighbors asked of {len(train_features)} train images: "
            "choose k between 1 and that number"
        )
    if distance == "cosine":
        train, tests = _unit_rows(train_features), _unit_rows(queries)
        offset = np.zeros(len(train), np.float32)
    else:
        # Distances do not change when both are centered; rounding errors shrink.
        center = train_features.mean(axis=0, dtype=np.float64).astype(np.float32)
        train, tests = train_features - center, queries - center
        offset = -0.5 * np.einsum("nd,nd->n", train, train)

    def search(start: int) -> tuple[np.ndarray, np.ndarray]:
        tile = tests[start : start + _QUERIES]
        if distance == "cosine":
            keys = _search(tile, train, offset, k)
            return _scores(keys), _LOW_BITS - (keys & _LOW_BITS)
        keys = _search(tile, train, offset, min(k + _SLACK, len(train)))
        rows, indices = queries[start : start + _QUERIES], _LOW_BITS - (keys & _LOW_BITS)
        distances, indices = _exact_distances(rows, train_features, indices)
        return distances[:, :k], indices[:, :k]

    starts = range(0, len(tests), _QUERIES)
    # One query tile per thread: BLAS's own threads would leave the selection to one core.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = tqdm(pool.map(search, starts), "kNN", len(starts), delay=2, disable=not progress)
        values, indices = zip(*shown, strict=True)
    return np.concatenate(values), np.concatenate(indices)


def _weights(values: np.ndarray, temperature: float, distance: str) -> np.ndarray:
    """Returns the weights [Q,k] float64 of neighbors, up to a factor per query."""
    if distance == "cosine":
        values = values.astype(np.float64)
        return np.exp((values - values[:, :1]) / temperature)
    return 1.0 / (values + 1e-5)


def vote(
    values: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    temperature: float = 0.07,
    distance: str = "cosine",
) -> np.ndarray:
    """Returns the votes [Q,C] float64 of neighbors, up to a factor per query.

    `values` are [Q,k] from `nearest`, nearest first; `labels` [Q,k] the neighbors' classes;
    `temperature` is that of the cosine weights exp(cos / T).
    """
    weights = _weights(values, temperature, distance)
    cells = np.arange(len(labels))[:, None] * num_classes + labels
    flat = np.bincount(cells.ravel(), weights.ravel(), minlength=len(labels) * num_classes)
    return flat.reshape(len(labels), num_classes)


def knn_rank(
    values: np.ndarray,
    neighbor_labels: np.ndarray,
    num_classes: int,
    temperature: float = 0.07,
    distance: str = "cosine",
    n: int = 5,
) -> np.ndarray:
    """Returns the classes [Q,min(n,k,C)] with most votes, best first; arguments as `vote`.

    Places behind the last class that got a vote hold -1.
    """
    n = min(n, values.shape[1])
    ranks = []
    for start in range(0, len(values), _QUERIES):
        rows = slice(start, start + _QUERIES)
        votes = vote(values[rows], neighbor_labels[rows], num_classes, temperature, distance)
        ranked = rank_classes(votes, n)
        ranks.append(np.where(np.take_along_axis(votes, ranked, 1) > 0, ranked, -1))
    return np.concatenate(ranks)


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    distance: str = "cosine",
) -> dict[int, np.ndarray]:
    """Returns, for every k, the classes [Q,min(5,k,C)] by weighted vote, best first.

    Where images have several labels, these are scores [Q,C] instead: the weighted share of the
    neighbors that have a label, less 1/2. All k are read off one search.

    Features are [n,D] and [Q,D] float; labels [n] and [Q] int, or [n,C] and [Q,C] of 0 and 1, of
    which those of test only say how many classes there are; `temperature` is T of the cosine
    weights. `UserError` for missing labels, one class only, NaN features, k above n.
    """
    train_features, train_labels, test_features, _, classes = checked_pair(
        train_features, train_labels, test_features, test_labels
    )
    if not k:
        raise UserError("no k was given: name at least one number of neighbors")
    if not temperature > 0:
        raise UserError(f"temperature={temperature}: must be above 0")
    values, indices = nearest(train_features, test_features, max(k), distance)
    labels, found = train_labels[indices], {}
    for size in map(int, k):
        near = values[:, :size], labels[:, :size]
        if labels.ndim == 3:
            weights = _weights(near[0], temperature, distance)
            weights /= weights.sum(axis=1, keepdims=True)
            found[size] = np.einsum("qk,qkc->qc", weights, near[1]) - 0.5
        else:
            found[size] = knn_rank(*near, classes, temperature, distance)
    return found


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    distance: str = "cosine",
) -> dict[int, dict[str, float]]:
    """Returns {k: {"top1": share, "top5": share}}; arguments and errors as `knn_predict`.

    Where images have several labels: {k: `multi_label_scores`}.

    >>> knn_accuracy(np.eye(2), np.array([0, 1]), np.eye(2), np.array([0, 1]), k=(1,))
    {1: {'top1': 1.0, 'top5': 1.0}}
    """
    found = knn_predict(
        train_features, train_labels, test_features, test_labels, k, temperature, distance
    )
    return {size: accuracies(predicted, test_labels) for size, predicted in found.items()}
