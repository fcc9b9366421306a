import keras
import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.nets import HEADS, build_head, build_predictor, build_projector, has_predictor

# wb: dense with bias, w: without; nr: BatchNorm with scale and offset, r: without.
LAYERS = {
    "simclr_projector": "wb relu wb",
    "moco_projector": "wb relu wb",
    "byol_projector": "wb nr relu wb",
    "byol_predictor": "wb nr relu wb",
    "simsiam_projector": "w nr relu w nr relu wb r",
    "simsiam_predictor": "w nr relu wb",
}


def word(layer):
    if isinstance(layer, keras.layers.Dense):
        return "wb" if layer.use_bias else "w"
    if isinstance(layer, keras.layers.BatchNormalization):
        return "nr" if layer.scale and layer.center else "r"
    return "relu"


@pytest.mark.parametrize("name", HEADS)
def test_head_is_what_the_paper_writes(name):
    """The layers, and the head against a transcription that reads its line of the table."""
    rng = np.random.default_rng(0)
    head = build_head(name, 12, 20, 7)
    assert " ".join(map(word, head.layers[1:])) == LAYERS[name]
    for weight in head.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))

    x = features = rng.normal(size=(5, 12)).astype("float32")
    weights = iter(head.get_weights())
    for step in LAYERS[name].split():
        if step.startswith("w"):
            x = x @ next(weights) + (next(weights) if step == "wb" else 0)
        elif step == "relu":
            x = np.maximum(x, 0)
        else:
            scale, offset = (next(weights), next(weights)) if step == "nr" else (1, 0)
            x = scale * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + offset
            next(weights), next(weights)
    np.testing.assert_allclose(head(features, training=True), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_batchnorm_is_set_as_in_the_papers(name):
    for layer in build_head(name, 12, 20, 7).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon, layer.synchronized) == (0.9, 1e-5, True)


def test_projector_and_predictor_by_objective():
    assert build_projector("moco", 4, 8, 3).output_shape == (None, 3)
    assert build_predictor("byol", 3, 8, 3).output_shape == (None, 3)
    assert [has_predictor(o) for o in ("simclr", "moco", "byol", "simsiam")] == [0, 0, 1, 1]
    with pytest.raises(UserError, match="simsiam_predictor"):
        build_predictor("simclr", 3, 8, 3)
    with pytest.raises(UserError, match="did you mean 'simclr_projector'"):
        build_head("simclr_projektor", 3, 8, 3)
    with pytest.raises(UserError, match="positive widths"):
        build_projector("simclr", 3, 0, 3)


def test_a_head_of_ones_own_reloads_equal(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    head = build_head(HEADS["simsiam_projector"][:2], 6, 8, 3, name="mine")
    head(x, training=True)
    head.save(tmp_path / "head.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "head.keras")(x), head(x))


def test_embeddings_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        head = build_projector("simsiam", 6, 8, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert head(np.ones((4, 6), "float32")).dtype == "float32"
    assert head.get_layer("dense_0").compute_dtype == "bfloat16"
    assert head.get_layer("norm_0").compute_dtype == "float32"


def test_first_weights_are_those_of_pytorch():
    kernel, bias = build_projector("simclr", 400, 300, 10).get_layer("dense_0").get_weights()
    assert 0.95 / 20 < np.abs(kernel).max() <= 1 / 20
    assert 0.9 / 20 < np.abs(bias).max() <= 1 / 20
