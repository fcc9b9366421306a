"""Images with several labels each: F1, probes, kNN and fine-tuning, and who refuses."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from adios_tf import cli, pretrained
from adios_tf.data.sources import Examples
from adios_tf.errors import UserError
from adios_tf.evaluation import data, linear
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.context import EvaluationContext
from adios_tf.evaluation.knn import knn_predict
from adios_tf.evaluation.metrics import multi_label_scores
from adios_tf.evaluation.protocols import PROTOCOLS
from adios_tf.evaluation.runner import evaluate
from adios_tf.training import run as pretraining
from adios_tf.training.config import PretrainConfig
from adios_tf.training.probe import Probe


def blobs(count, seed):
    """Three labels, each a half-space of six features; a fourth that every image has."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, 6))
    planes = np.random.default_rng(9).standard_normal((6, 3))
    labels = features @ planes + 0.5 * rng.standard_normal((count, 3)) > 0.8
    labels = np.concatenate([labels, np.ones((count, 1), bool)], axis=1)
    return features.astype(np.float32), labels.astype(int)


TRAIN, TEST = blobs(300, 0), blobs(200, 1)


def loop_scores(scores, labels):
    """F1 from counts; the weights are how often a class is predicted."""
    predicted = scores > 0
    f1 = []
    for column, truth in zip(predicted.T, labels.T == 1, strict=True):
        wrong = (column != truth).sum()
        f1.append(2 * (column & truth).sum() / (column.sum() + truth.sum()) if wrong else 1.0)
    both = 2 * (predicted & (labels == 1)).sum() / (predicted.sum() + labels.sum())
    return {
        "f1_micro": both,
        "f1_macro": np.mean(f1),
        "f1_weighted": np.average(f1, weights=predicted.sum(0)),
        "label_accuracy": (predicted == labels).mean(),
    }


def test_f1_by_hand():
    rng = np.random.default_rng(3)
    scores, labels = rng.standard_normal((30, 5)) - 0.5, rng.integers(0, 2, (30, 5))
    scores[:, 0], labels[:, 0] = -1, 0  # neither there nor predicted
    scores[0, 1] = 0.0  # not predicted
    assert multi_label_scores(scores, labels) == pytest.approx(loop_scores(scores, labels))


def test_logistic_probe_is_one_regression_per_class():
    result = linear.logistic_probe(*TRAIN, *TEST, strengths=(0.01,))
    prepare = linear.Standardizer.of(TRAIN[0])
    for label in range(3):
        oracle = LogisticRegression(C=1 / (0.01 * 300), tol=1e-8, max_iter=1000)
        oracle.fit(prepare(TRAIN[0]), TRAIN[1][:, label])
        expected = oracle.decision_function(prepare(TEST[0]))
        np.testing.assert_allclose(result.scores[:, label], expected, atol=0.02)
    assert (result.scores[:, 3] == np.inf).all()
    chosen = linear.logistic_probe(*TRAIN, *TEST, strengths=(1e4, 0.01))
    assert (chosen.chosen, chosen.train_count) == (0.01, 300)
    assert multi_label_scores(chosen.scores, TEST[1])["f1_macro"] > 0.8


def test_sgd_probe_is_a_loop():
    settings = {"learning_rates": (0.5,), "epochs": 3, "decay_epochs": (2,), "batch_size": 300}
    result = linear.sgd_probe(*TRAIN, *TEST, **settings, standardize=False)
    weights = [np.zeros((6, 4)), np.zeros(4)]
    speeds = [np.zeros((6, 4)), np.zeros(4)]
    for rate in (0.5, 0.5, 0.05):
        error = 1 / (1 + np.exp(-(TRAIN[0] @ weights[0] + weights[1]))) - TRAIN[1]
        gradients = (TRAIN[0].T @ error / error.size, error.sum(0) / error.size)
        speeds = [0.9 * s + g for s, g in zip(speeds, gradients, strict=True)]
        weights = [w - rate * s for w, s in zip(weights, speeds, strict=True)]
    np.testing.assert_allclose(result.kernel, weights[0], atol=1e-6)
    np.testing.assert_allclose(result.bias, weights[1], atol=1e-6)
    swept = linear.sgd_probe(*TRAIN, *TEST, epochs=20, decay_epochs=(15,))
    assert multi_label_scores(swept.scores, TEST[1])["f1_micro"] > 0.85


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_knn_is_a_weighted_share(distance):
    found = knn_predict(*TRAIN, *TEST, k=(1, 7), temperature=0.2, distance=distance)
    rows, queries = TRAIN[0].astype(float), TEST[0][:20].astype(float)
    for query, shares in zip(queries, found[7], strict=False):
        if distance == "cosine":
            near = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
            weights = np.exp(near / 0.2)
        else:
            near = -np.linalg.norm(rows - query, axis=1)
            weights = 1 / (1e-5 - near)
        best = np.argsort(-near)[:7]
        share = np.average(TRAIN[1][best], axis=0, weights=weights[best])
        np.testing.assert_allclose(shares, share - 0.5, atol=1e-4)
    assert set(np.unique(found[1].round(6))) == {-0.5, 0.5}


def patches(count, seed):
    """Images in which a red, a green and a blue patch may be, each alone a label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 3))
    images = rng.integers(0, 40, (count, 32, 32, 3), np.uint8)
    for image, several in zip(images, labels, strict=True):
        for color in np.flatnonzero(several):
            top, left = rng.integers(0, 20, 2)
            image[top : top + 12, left : left + 12, color] = 250
    rows = {"image": images, "label": labels.astype(np.int64), "index": np.arange(count)}
    return Examples(tf.data.Dataset.from_tensor_slices(rows), count, 3)


@pytest.fixture
def several(monkeypatch):
    """Any data set has three labels per image."""

    def load(info, split, *_, **__):
        return patches(160, 0) if split == "train" else patches(80, 1)

    monkeypatch.setattr(data, "load_examples", load)


QUICK = {
    "knn_k": (5,),
    "probe_strengths": (0.1, 0.01),
    "sgd_learning_rates": (0.3, 1.0),
    "sgd_epochs": 20,
    "sgd_decay_epochs": (15,),
    "finetune_epochs": 15,
    "finetune_learning_rate": 0.5,
    "finetune_steps": 1,
    "finetune_batch_size": 32,
    "finetune_min_scale": 0.9,
}
ABLE = ("knn", "linear", "linear_sgd", "linear_augmented", "finetune")


def test_protocols_give_f1(run, several, tmp_path):
    rows = evaluate(EvaluateConfig(run=str(run), protocols=ABLE, out=str(tmp_path), **QUICK))
    found = {(row.protocol, row.metric): row.mean for row in rows}
    metrics = {"f1_micro", "f1_macro", "f1_weighted", "label_accuracy"}
    assert set(found) == {(name, metric) for name in ABLE for metric in metrics}
    for name in ABLE:  # predicting every label gives about 0.67
        assert found[name, "f1_micro"] > 0.75, found
    assert len({row.recipe for row in rows}) == len(rows)


def test_who_refuses(run, several):
    config = EvaluateConfig(run=str(run), dataset="shapes", save_classifier=True, **QUICK)
    context = EvaluationContext(config, pretrained.load(run))
    for name in ("semi", "clustering", "corruptions", "backgrounds"):
        with pytest.raises(UserError, match="one label per image"):
            next(PROTOCOLS[name](context))
    with pytest.raises(UserError, match="save_classifier"):
        next(PROTOCOLS["linear"](context))
    for wrong, words in ((2 * TRAIN[1], "zeros and ones"), (0 * TRAIN[1], "same labels")):
        with pytest.raises(UserError, match=words):
            linear.logistic_probe(TRAIN[0], wrong, *TEST)
    with pytest.raises(UserError, match="same classes"):
        linear.logistic_probe(*TRAIN, TEST[0], TEST[1][:, 0])


def test_the_probe_of_pretraining():
    probe = Probe(6, 4)
    logits = TRAIN[0] @ probe.classifier.kernel.numpy() + probe.classifier.bias.numpy()
    chance = 1 / (1 + np.exp(-logits))
    loss, right = probe(TRAIN[0], tf.constant(TRAIN[1]))
    losses = -np.where(TRAIN[1] == 1, np.log(chance), np.log(1 - chance))
    assert float(loss) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(right) == pytest.approx(((logits > 0) == TRAIN[1]).mean())


@pytest.mark.slow
def test_pretraining_with_several_labels(several, monkeypatch, tmp_path):
    monkeypatch.setattr(pretraining, "load_examples", data.load_examples)
    flags = "--dataset=shapes --backbone=convnet_small --image_size=16 --batch_size=80"
    flags += " --epochs=1 --warmup_epochs=0 --hidden_dim=8 --output_dim=8"
    flags += " --masking=patches --patch_size=4 --picture_every=0"
    config = cli.parse(PretrainConfig, [f"--run_dir={tmp_path / 'run'}", *flags.split()])
    summary = pretraining.pretrain(config)
    assert 0.5 < summary["knn_pixels"] < 1  # micro F1
    assert 0 < summary["knn_trained"] < 1
