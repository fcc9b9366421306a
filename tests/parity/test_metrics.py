"""Evaluation metrics against the official implementation (metrics.npz).

Two places depart on purpose: the official float32 kNN overflows at T = 0.01, so its float64
columns are the measure; and k above the size of the train set is refused, not cut.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.evaluation import mask_quality
from adios_tf.evaluation.knn import knn_accuracy
from adios_tf.evaluation.metrics import multi_label_scores, rank_classes, top_accuracy

KNN_COLUMNS = (
    "k T distance(0=cosine,1=euclidean) max_distance_matrix_size "
    "acc1 acc5 acc1_float64 acc5_float64"
).split()
FEATURES = ("features", "targets")


@pytest.fixture
def metrics(golden):
    return golden("metrics")


@pytest.mark.cases("metrics", lambda file: file["names/acc"])
def test_top_accuracy(metrics, case):
    ranked = rank_classes(metrics[f"acc/{case}/logits"], 5)
    for n in metrics[f"acc/{case}/top_k"]:
        ours = 100 * top_accuracy(ranked, metrics[f"acc/{case}/targets"], n)
        assert ours == pytest.approx(metrics[f"acc/{case}/acc{n}"].item(), rel=1e-6)


def test_several_labels(metrics):
    found = multi_label_scores(metrics["multi/logits"], metrics["multi/targets"])
    found["acc"] = found.pop("label_accuracy")
    wanted = {name: metrics[f"multi/{name}"].item() for name in found}
    assert found == pytest.approx(wanted, rel=1e-6)


def test_knn(metrics):
    data = [metrics[f"knn/{split}_{part}"] for split in ("train", "test") for part in FEATURES]
    count = len(data[0])
    table = metrics["knn/table"]
    assert metrics["knn/table_columns"].tolist() == KNN_COLUMNS
    assert len(table)
    for k, temperature, kind, _, _, _, top1, top5 in table:
        settings = {"temperature": temperature, "distance": ("cosine", "euclidean")[int(kind)]}
        if k > count:
            with pytest.raises(UserError, match="neighbors"):
                knn_accuracy(*data, k=(int(k),), **settings)
            k = count
        found = knn_accuracy(*data, k=(int(k),), **settings)[int(k)]
        assert 100 * found["top1"] == pytest.approx(top1, abs=1e-6)
        assert 100 * found["top5"] == pytest.approx(top5, abs=1e-6)


@pytest.mark.cases("metrics", lambda file: file["names/ari"])
def test_segmentation_of_masks(metrics, case):
    masks, true = metrics[f"ari/{case}/pred_masks"], metrics[f"ari/{case}/gt"][..., 0]
    masker = keras.models.Sequential([keras.Input(masks.shape[1:]), keras.layers.Identity()])
    predicted = mask_quality.segment(masker)(tf.constant(masks))
    np.testing.assert_array_equal(predicted, metrics[f"ari/{case}/pred_seg"][..., 0])
    scores = mask_quality.mask_scores(true, predicted)
    for ours, theirs in (("ari", "ari"), ("ari_foreground", "ari_fg")):
        np.testing.assert_allclose(
            scores[ours], metrics[f"ari/{case}/{theirs}_per_image"], atol=1e-9
        )
        assert scores[ours].mean() == pytest.approx(metrics[f"ari/{case}/{theirs}"], abs=1e-6)
    assert_coverings(metrics, f"ari/{case}", scores)


def test_covering_with_ignored_pixels(metrics):
    true, predicted = (metrics[f"segcover/seg{name}"][..., 0] for name in "AB")
    assert (true < 0).any()
    assert_coverings(metrics, "segcover", mask_quality.mask_scores(true, predicted))


def assert_coverings(metrics, case, scores):
    """The official code computes these in float32."""
    names = {
        "covering": "msc",
        "covering_by_size": "ssc",
        "precision": "map",
        "precision_by_size": "sap",
    }
    for ours, theirs in names.items():
        assert scores[ours].mean() == pytest.approx(metrics[f"{case}/{theirs}"], abs=1e-6)
        found = scores[f"{ours}_foreground"].mean()
        assert found == pytest.approx(metrics[f"{case}/{theirs}_fg"], abs=1e-6)


def test_iou(metrics):
    """Where both masks are empty the official code writes -100; here there is no such segment."""
    first, second = (metrics[f"iou/{name}"][..., 0].astype(int) for name in "AB")
    for one, other, theirs in zip(first, second, metrics["iou/iou"], strict=True):
        ious = mask_quality.iou_matrix(one, other, foreground=True)
        if theirs == -100:
            assert ious.shape[0] == 0
        else:
            assert ious[0, -1] == pytest.approx(theirs, abs=1e-6)
