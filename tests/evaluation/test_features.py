"""Features are made in inference mode and do not depend on the batch."""

import keras
import numpy as np
import pytest

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.evaluation.features import encode_batches, feature_function

IMAGES = np.random.default_rng(1).standard_normal((20, 32, 32, 3)).astype(np.float32)


def encode(function, size, images=IMAGES):
    parts = (images[start : start + size] for start in range(0, len(images), size))
    return encode_batches(function, parts, size)


@pytest.mark.parametrize("layer", ["backbone", "projector", "pixels"])
def test_any_batch_size_gives_the_same_features(run, layer):
    function = feature_function(pretrained.load(run), layer)
    whole = encode(function, 20)
    assert whole.shape == (20, {"backbone": 16, "projector": 4, "pixels": 3072}[layer])
    assert whole.dtype == np.float32
    for size in (1, 7, 64):
        np.testing.assert_allclose(encode(function, size), whole, atol=1e-5)
    # One company or another: batch statistics would tell.
    mixed = np.concatenate([IMAGES[:1], 50 + IMAGES[1:]])
    np.testing.assert_allclose(encode(function, 20, mixed)[0], whole[0], atol=1e-5)


def test_encoding_leaves_batchnorm_alone(run):
    model = pretrained.load(run)
    before = [weight.numpy() for weight in model.encoder.weights]
    encode(feature_function(model, "projector"), 8)
    for old, weight in zip(before, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


def test_features_are_those_of_the_network(run):
    model = pretrained.load(run)
    features = encode(feature_function(model, "backbone"), 8)
    np.testing.assert_allclose(features, model.encoder.predict(IMAGES, verbose=0), atol=1e-5)
    projected = encode(feature_function(model, "projector"), 8)
    np.testing.assert_allclose(projected, model.projector.predict(features, verbose=0), atol=1e-5)
    pixels = encode(feature_function(model, "pixels"), 8)
    np.testing.assert_array_equal(pixels, IMAGES.reshape(20, -1))


def test_no_projector(run):
    images = keras.Input((32, 32, 3))
    info = {"image_size": 32, "mean": [0] * 3, "std": [1] * 3}
    encoder = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(UserError, match="no projector"):
        feature_function(pretrained.PretrainedModel(info, encoder), "projector")


def test_nothing_to_encode():
    with pytest.raises(UserError, match="empty"):
        encode_batches(lambda images: images, [], 4)
