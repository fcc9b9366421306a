"""Masks against ground truth: adjusted Rand index, covering, average precision, matched IoU.

Label maps are integers: ground truth 0 = background, 1.. = instances or classes, -1 = ignore;
predicted = the slot with the largest mask. "foreground" leaves out true background.

Source: the official ADIOS evaluation (mean and size-weighted covering after GENESIS). Departures:
background is a label of its own also where the official CLEVR loader merges it with an object;
a foreground score skips images without foreground, and the foreground Rand index those with
fewer than two objects, where it can only be 0 or 1.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.reporting.panels import segmentation

SCORES = "ari covering covering_by_size precision precision_by_size matched_iou".split()


def segment(masker: keras.Model) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns normalized images [B,S,S,3] -> which slot hides each pixel most, [B,S,S].

    The slots of ADIOS sum to 1, so that there this is their argmax, as in the official
    evaluation; see `segmentation`.
    """
    masks = tf.function(lambda images: masker(images, training=False), reduce_retracing=True)
    return lambda images: segmentation(masks(images).numpy())


def random_segmentation(
    shape: tuple[int, int, int], slots: int, seed: int = 0, grain: float = 0.1
) -> np.ndarray:
    """Returns label maps [B,H,W] of smooth random blobs: what masks score that know nothing.

    `slots` is the number of labels, `grain` the blobs' size as a share of the side.
    """
    count, height, width = shape
    maps = np.empty(shape, np.int64)
    for index in range(count):
        noise = np.random.default_rng([seed, index]).standard_normal((height, width, slots))
        sigma = grain * min(height, width)
        maps[index] = gaussian_filter(noise, (sigma, sigma, 0)).argmax(axis=-1)
    return maps


def _overlaps(
    true: np.ndarray, predicted: np.ndarray, foreground: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pixels that segments share [T,P], and the sizes of true [T] and predicted [P] ones.

    Of one image; ignored pixels (true < 0) belong to no segment. T is without background if
    `foreground`.
    """
    valid = true >= 0
    labels, shared = np.unique(true[valid]), contingency_matrix(true[valid], predicted[valid])
    keep = labels > 0 if foreground else np.ones(len(labels), bool)
    return shared[keep], shared.sum(axis=1)[keep], shared.sum(axis=0)


def iou_matrix(true: np.ndarray, predicted: np.ndarray, foreground: bool = False) -> np.ndarray:
    """Returns the intersection over union [T,P] of every true and predicted segment.

    Of two label maps [H,W] of one image; `foreground` leaves out true background.
    """
    shared, true_size, slot_size = _overlaps(true, predicted, foreground)
    return shared / (true_size[:, None] + slot_size[None, :] - shared)


def rand_index(true: np.ndarray, predicted: np.ndarray, foreground: bool = False) -> float:
    """Returns the adjusted Rand index of two label maps [H,W].

    NaN with `foreground` where fewer than two objects are there.
    """
    if foreground and len(np.unique(true[true > 0])) < 2:
        return float("nan")
    chosen = true > 0 if foreground else true >= 0
    return float(adjusted_rand_score(true[chosen], predicted[chosen]))


def _best(fit: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """Returns the mean over segments [T] of the best fit [T,P], and the mean weighted by size."""
    if not len(size):
        return float("nan"), float("nan")
    best = fit.max(axis=1)
    return float(best.mean()), float(np.average(best, weights=size))


def covering(
    true: np.ndarray, predicted: np.ndarray, foreground: bool = False
) -> tuple[float, float]:
    """Returns segmentation covering of label maps [H,W]: mean, and weighted by size.

    For every true segment the IoU of the predicted segment that fits it best. NaN with
    `foreground` where there is none.
    """
    _, size, _ = _overlaps(true, predicted, foreground)
    return _best(iou_matrix(true, predicted, foreground), size)


def average_precision(
    true: np.ndarray, predicted: np.ndarray, foreground: bool = False
) -> tuple[float, float]:
    """Returns average precision of label maps [H,W]: mean, and weighted by size.

    For every true segment the predicted segment that ranks its pixels best. A binary
    prediction with precision P and recall R has average precision P R + prevalence (1 - R).
    Ignored pixels count as correctly left out, as in the official code. NaN as `covering`.
    """
    shared, size, slot_size = _overlaps(true, predicted, foreground)
    recall, precision = shared / size[:, None], shared / slot_size[None, :]
    prevalence = size[:, None] / true.size
    return _best(precision * recall + prevalence * (1 - recall), size)


def matched_iou(true: np.ndarray, predicted: np.ndarray, foreground: bool = False) -> float:
    """Returns the mean IoU over true segments when each slot may serve one of them only.

    Hungarian matching; a true segment that gets no slot counts 0. NaN as `covering`.
    """
    ious = iou_matrix(true, predicted, foreground)
    if not len(ious):
        return float("nan")
    rows, columns = linear_sum_assignment(ious, maximize=True)
    return float(ious[rows, columns].sum() / len(ious))


def mask_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Scores every image; take `np.nanmean` of each entry for the data set.

    Args:
      true, predicted: label maps [B,H,W] int.

    Returns:
      {"ari", "covering", "covering_by_size", "precision", "precision_by_size",
      "matched_iou", and each again as "..._foreground"}: [B] float, NaN where undefined.

    Raises:
      UserError: shapes that differ, or an image without a labeled pixel.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 3:
        raise UserError(
            f"label maps must both be [B,H,W], got true {true.shape} and "
            f"predicted {predicted.shape}"
        )
    scores: dict[str, list[float]] = {}
    pairs = zip(true, predicted, strict=True)
    for one, other in tqdm(pairs, "mask quality", len(true), delay=2):
        if (one < 0).all():
            raise UserError("an image has no labeled pixel: leave it out of the ground truth")
        for foreground in (False, True):
            row = (
                rand_index(one, other, foreground),
                *covering(one, other, foreground),
                *average_precision(one, other, foreground),
                matched_iou(one, other, foreground),
            )
            for name, value in zip(SCORES, row, strict=True):
                name = f"{name}_foreground" if foreground else name
                scores.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in scores.items()}
