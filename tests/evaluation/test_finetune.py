"""Fine-tuning on tiny nets: what moves, what does not, and that it learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from adios_tf.errors import UserError
from adios_tf.evaluation.finetune import Classifier, fine_tune


@pytest.fixture
def encoder():
    keras.utils.set_random_seed(0)
    return tiny.encoder(8, 8)


def stripes(count, seed=0):
    """Class 0 has rows, class 1 columns."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    waves = np.sign(rng.standard_normal((count, 8)))[:, :, None, None]
    images = np.where(labels[:, None, None, None], waves.swapaxes(1, 2), waves)
    return np.broadcast_to(images, (count, 8, 8, 3)).astype(np.float32) + 0.5, labels


IMAGES, LABELS = stripes(64)


def batches(epochs):
    images = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    return images.shuffle(64, seed=1).batch(16).repeat(epochs)


def norms(model):
    return [
        w.numpy()
        for layer in model._flatten_layers()
        if layer.name == "norm"
        for w in (layer.moving_mean, layer.moving_variance)
    ]


def test_it_learns_and_every_layer_moves(encoder):
    before = [w.numpy() for w in encoder.trainable_weights]
    model = fine_tune(encoder, batches(15), 4, 2, epochs=15, learning_rate=0.2)
    test_images, test_labels = stripes(64, seed=1)
    right = (model.predict(test_images, verbose=0).argmax(1) == test_labels).mean()
    assert right > 0.9
    for old, new in zip(before, encoder.trainable_weights, strict=True):
        assert np.abs(old - new.numpy()).max() > 1e-4, new.path


@pytest.mark.parametrize("policy", ["train", "frozen"])
def test_batchnorm_follows_its_flag(encoder, policy):
    old = norms(encoder)
    model = fine_tune(encoder, batches(1), 4, 2, epochs=1, batchnorm=policy)
    moved = [np.abs(a - b).max() > 0 for a, b in zip(old, norms(model), strict=True)]
    assert moved == [policy == "train"] * 2
    alone = model.predict(IMAGES[:1], verbose=0)
    np.testing.assert_allclose(alone, model.predict(IMAGES, verbose=0)[:1], atol=1e-5)


def test_it_repeats(encoder):
    start = encoder.get_weights()
    first = fine_tune(encoder, batches(2), 4, 2, epochs=2).get_weights()
    encoder.set_weights(start)
    second = fine_tune(encoder, batches(2), 4, 2, epochs=2).get_weights()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_encoder_that_was_frozen_trains(encoder):
    encoder.trainable = False
    assert len(Classifier(encoder, 2).trainable_weights) == 5


def test_bad_input(encoder):
    with pytest.raises(UserError, match="frozen, train"):
        Classifier(encoder, 2, "eval")
    with pytest.raises(UserError, match="no batch"):
        fine_tune(encoder, batches(1), 0, 2)
    with pytest.raises(UserError, match="diverged"):
        fine_tune(encoder, batches(9), 4, 2, epochs=9, learning_rate=1e18, warmup_epochs=0)
