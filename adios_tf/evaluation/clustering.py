"""k-means on features, compared with the labels: FMI, ARI, NMI.

Departures from the official ADIOS evaluation: the number of clusters is the number of
classes (there: one less), and several seeds give a spread.
"""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, fowlkes_mallows_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.validation import checked_features, checked_labels

SCORES = {
    "fmi": fowlkes_mallows_score,
    "ari": adjusted_rand_score,
    "nmi": normalized_mutual_info_score,
}


def cluster_scores(
    features: np.ndarray,
    labels: np.ndarray,
    seeds: tuple[int, ...] = (0, 1, 2),
    starts: int = 3,
    normalize: bool = False,
) -> dict[str, np.ndarray]:
    """Clusters features into as many groups as there are classes.

    Args:
      features: [n,D] float.
      labels: [n] int.
      seeds: one k-means each.
      starts: initializations (k-means++) per seed, the tightest of which counts.
      normalize: l2-normalize the features first; the official code does not.

    Returns:
      {"fmi", "ari", "nmi"}: [len(seeds)] each.

    Raises:
      UserError: missing labels, one class only, NaN features, fewer images than classes.
    """
    features = checked_features(features, "test")
    labels = checked_labels(labels, len(features), "test", classes=2)
    clusters = len(np.unique(labels))
    if not seeds:
        raise UserError("no seed was given: name at least one")
    if normalize:
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.maximum(norms, 1e-12)
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    # One thread: with more, k-means adds its partial sums in whatever order they finish.
    with threadpool_limits(1):
        for seed in tqdm(seeds, "k-means", delay=2):
            groups = KMeans(clusters, n_init=starts, random_state=seed).fit_predict(features)
            for name, score in SCORES.items():
                found[name].append(float(score(labels, groups)))
    return {name: np.array(values) for name, values in found.items()}
