"""Official checkpoints in our networks (resnet18_features.npz, torch_checkpoint_*.ckpt)."""

import json
import re

import keras
import numpy as np
import pytest

from adios_tf.encoders import build_encoder
from adios_tf.exporting.torch_file import read_torch_checkpoint
from adios_tf.nets import build_predictor, build_projector, build_unet
from adios_tf.nets.torch_weights import weights_from_official, weights_to_official

METHODS = ["simclr_adios", "byol_adios", "simsiam_adios"]


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(golden_file, method):
    """Returns (state_dict, args) of the method's official checkpoint."""
    state = read_torch_checkpoint(golden_file(f"torch_checkpoint_{method}.ckpt"))["state_dict"]
    args = json.loads(golden_file(f"torch_checkpoint_{method}.args.json").read_text())
    return state, args


@pytest.fixture
def features(golden):
    return golden("resnet18_features")


def assert_relative(ours, theirs, tolerance=1e-4):
    scale = np.abs(theirs).max()
    assert 0 < scale < np.inf
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, rtol=0, atol=tolerance)


def test_the_file_holds_what_pytorch_says(features, method, checkpoint):
    state, _ = checkpoint
    assert list(state) == list(features[f"{method}/state_dict_keys"])
    shapes = [str(array.shape) for array in state.values()]
    assert shapes == [s.replace("torch.Size", "") for s in features[f"{method}/state_dict_shapes"]]


def test_heads(features, method, checkpoint):
    state, args = checkpoint
    base = method.split("_")[0]
    hidden, out = args["proj_hidden_dim"], args["output_dim"]
    given = features[f"{method}/projector_in"]
    projector = build_projector(base, given.shape[1], hidden, out)
    weights_from_official(projector, "projector", state)
    embedded = projector(given)
    assert_relative(embedded, features[f"{method}/projector_out"])
    if base != "simclr":
        predictor = build_predictor(base, out, args["pred_hidden_dim"], out)
        weights_from_official(predictor, "predictor", state)
        assert_relative(predictor(embedded), features[f"{method}/predictor_out"])
    if base == "byol":
        target = build_projector(base, given.shape[1], hidden, out)
        weights_from_official(target, "projector", state, prefix="momentum_projector.")
        assert_relative(target(given), features[f"{method}/momentum_projector_out"])
    dense = given @ state["classifier.weight"].T + state["classifier.bias"]
    assert_relative(dense, features[f"{method}/classifier_out"])


def test_masker(features, method, checkpoint):
    state, args = checkpoint
    unet = build_unet(
        features["x"].shape[1], args["N"], base=args["mask_fbase"], norm=args["unet_norm"]
    )
    weights_from_official(unet, "unet", state)
    masks = keras.ops.softmax(unet(features["x"]))
    np.testing.assert_allclose(masks, features[f"{method}/masks"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[:1], indirect=True)
def test_resnet18_with_the_cifar_stem(features, method, checkpoint):
    state, args = checkpoint
    encoder = build_encoder("resnet18", features["x"].shape[1], stem="adios_cifar", padding="torch")
    used = weights_from_official(encoder, "resnet", state)
    assert used == {n for n in state if n.startswith("encoder.")}
    ours = encoder(features["x"])
    for name in ("feats", "feats_f32"):
        assert_relative(ours, features[f"{method}/{name}"])
    projector = build_projector("simclr", 512, args["proj_hidden_dim"], args["output_dim"])
    weights_from_official(projector, "projector", state)
    assert_relative(projector(ours), features[f"{method}/z"])
    logits = np.asarray(ours) @ state["classifier.weight"].T + state["classifier.bias"]
    assert_relative(logits, features[f"{method}/logits"])

    layers = ["conv1_relu", *(f"v2_stack_{i}_block2_out" for i in range(4))]
    stages = keras.Model(encoder.input, [encoder.get_layer(n).output for n in layers])
    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    for name, maps in zip(names, stages(features["x"][:1]), strict=True):
        assert_relative(maps, features[f"{method}/stage/{name}"])

    back = weights_to_official(encoder, "resnet")
    for name in used:
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[name], state[name], err_msg=name)
    assert set(back) == used


@pytest.mark.parametrize("method", METHODS[:1], indirect=True)
def test_resnet18_with_the_imagenet_stem(features, method, checkpoint):
    state = checkpoint[0] | {"encoder.conv1.weight": features["std_stem/conv1/torch"]}
    np.testing.assert_array_equal(
        features["std_stem/conv1/keras"], state["encoder.conv1.weight"].transpose(2, 3, 1, 0)
    )
    encoder = build_encoder("resnet18", features["std_stem/x"].shape[1], padding="torch")
    weights_from_official(encoder, "resnet", state)
    stem = keras.Model(encoder.input, encoder.get_layer("pool1_pool").output)
    assert_relative(stem(features["std_stem/x"]), features["std_stem/stem_out"])
    assert_relative(encoder(features["std_stem/x"]), features["std_stem/feats"])


def test_vit_tiny_starts_as_timms(golden_file):
    """vit_tiny_init.json: each tensor's shape and constants, its mean and deviation within 5 sigma.

    The law that they are drawn from is tested in `tests/encoders/test_backbones.py`.
    """
    tensors = json.loads(golden_file("vit_tiny_init.json").read_text())["tensors"]
    keras.utils.set_random_seed(1)
    weights = weights_to_official(build_encoder("vit_tiny", 96), "vit", prefix="")
    pooled = {}
    for name, array in weights.items():
        pooled.setdefault(re.sub(r"^blocks\.\d+", "blocks.*", name), []).append(array)
    assert set(pooled) == set(tensors)
    for name, arrays in pooled.items():
        theirs, ours = tensors[name], np.stack(arrays)
        assert list(ours.shape[1:]) == theirs["shape"], name
        if theirs["std"] == 0:
            np.testing.assert_array_equal(ours, theirs["mean"], err_msg=name)
            continue
        noise = 5 * theirs["std"] * np.sqrt((1 + 1 / 3) / ours.size)  # theirs pools three seeds
        assert abs(ours.mean() - theirs["mean"]) < noise, name
        assert abs(ours.std() - theirs["std"]) < noise, name
