import re

import keras
import numpy as np
import pytest
from scipy.special import erf, softmax

from adios_tf.encoders import build_encoder
from adios_tf.encoders.vit import build_vit
from adios_tf.errors import UserError
from adios_tf.nets import build_predictor, build_projector, build_unet
from adios_tf.nets.torch_weights import official_mapping, weights_from_official, weights_to_official


def tiny_vit():
    return build_vit(16, width=12, heads=3, depth=2, patch=8)


NETS = {
    "unet gn": ("unet", lambda: build_unet(40, 3, base=8)),
    "unet no": ("unet", lambda: build_unet(32, 3, base=4, norm="no")),
    "resnet": ("resnet", lambda: build_encoder("resnet18", 32, padding="torch")),
    "vit": ("vit", tiny_vit),
    "simsiam projector": ("projector", lambda: build_projector("simsiam", 5, 6, 4)),
    "byol predictor": ("predictor", lambda: build_predictor("byol", 5, 6, 4)),
}


def randomize(model):
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))


@pytest.mark.parametrize("name", NETS)
def test_there_and_back_is_exact(name):
    kind, build = NETS[name]
    first, second = build(), build()
    randomize(first)
    arrays = weights_to_official(first, kind)
    assert weights_from_official(second, kind, arrays | {"other": np.zeros(1)}) == set(arrays)
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    for key, array in weights_to_official(second, kind).items():
        np.testing.assert_array_equal(array, arrays[key], err_msg=key)


def test_names_of_resnet50_are_those_of_torchvision():
    arrays = weights_to_official(build_encoder("resnet50", 96, padding="torch"), "resnet")
    assert len(arrays) == 318
    shapes = {
        "encoder.conv1.weight": (64, 3, 7, 7),
        "encoder.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "encoder.layer2.3.conv2.weight": (128, 128, 3, 3),
        "encoder.layer3.5.bn3.running_var": (1024,),
        "encoder.layer4.0.downsample.1.num_batches_tracked": (),
    }
    assert {name: arrays[name].shape for name in shapes} == shapes


def test_prefix():
    projector = build_projector("byol", 5, 6, 4)
    arrays = weights_to_official(projector, "projector", prefix="momentum_projector.")
    assert "momentum_projector.1.running_mean" in arrays
    weights_from_official(projector, "projector", arrays, prefix="momentum_projector.")
    with pytest.raises(UserError, match=r"8 official weights .* projector\.0\.bias among them"):
        weights_from_official(projector, "projector", arrays)


def layer_norm(x, w, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def timm_vit(image, w, heads, depth, patch):
    """The class token of one image [S,S,3] as timm computes it, from its state_dict, with loops."""
    kernel = w["patch_embed.proj.weight"]
    side = image.shape[0] // patch
    tokens = [w["cls_token"][0, 0]]
    for i in range(side):
        for j in range(side):
            piece = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            tokens.append(np.einsum("hwc,dchw->d", piece, kernel) + w["patch_embed.proj.bias"])
    x = np.stack(tokens) + w["pos_embed"][0]
    width = x.shape[-1]
    each = width // heads
    for k in range(depth):
        y = linear(layer_norm(x, w, f"blocks.{k}.norm1"), w, f"blocks.{k}.attn.qkv")
        query, key, value = y[:, :width], y[:, width : 2 * width], y[:, 2 * width :]
        heard = []
        for h in range(heads):
            of = slice(h * each, (h + 1) * each)
            scores = query[:, of] @ key[:, of].T / np.sqrt(each)
            heard.append(softmax(scores, -1) @ value[:, of])
        x = x + linear(np.concatenate(heard, -1), w, f"blocks.{k}.attn.proj")
        y = linear(layer_norm(x, w, f"blocks.{k}.norm2"), w, f"blocks.{k}.mlp.fc1")
        x = x + linear(y * (1 + erf(y / np.sqrt(2))) / 2, w, f"blocks.{k}.mlp.fc2")
    return layer_norm(x, w, "norm")[0]


def test_vit_with_timms_weights_gives_timms_features():
    vit = tiny_vit()
    randomize(vit)
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    weights = weights_to_official(vit, "vit", prefix="")
    expected = [timm_vit(image, weights, heads=3, depth=2, patch=8) for image in images]
    np.testing.assert_allclose(vit(images), expected, rtol=1e-3, atol=1e-3)


def test_nothing_changes_when_an_array_does_not_fit():
    unet = build_unet(32, 3, base=8)
    before = unet.get_weights()
    arrays = weights_to_official(build_unet(32, 3, base=8), "unet")
    wide = weights_to_official(build_unet(32, 4, base=8), "unet")
    with pytest.raises(UserError, match=r"mask_head.0.weight has shape \(4, 8, 1, 1\)"):
        weights_from_official(unet, "unet", arrays | {n: wide[n] for n in wide if "head" in n})
    del arrays["mask_encoder.mlp.3.bias"]
    with pytest.raises(UserError, match=r"mask_encoder.mlp.3.bias among them"):
        weights_from_official(unet, "unet", arrays)
    for ours, theirs in zip(unet.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_padded_as_keras_does_takes_no_official_weights():
    encoder = build_encoder("resnet18", 32)
    with pytest.raises(UserError, match="padding='torch'"):
        weights_from_official(encoder, "resnet", weights_to_official(encoder, "resnet"))


def test_other_models_are_refused():
    with pytest.raises(UserError, match="has no official name"):
        official_mapping(build_encoder("convnet_small", 32), "resnet")
    known = "did you mean 'unet'? known are dense, predictor, projector, resnet, unet, vit"
    with pytest.raises(UserError, match=re.escape(known)):
        official_mapping(build_unet(32, 3, base=8), "u-net")


def test_a_vit_of_earlier_versions_has_no_official_form():
    """Such a file reloads, as plain Keras layers do; only its weights cannot be handed over."""
    inputs = keras.Input((4, 6))
    attended = keras.layers.MultiHeadAttention(2, 3, name="block_0_attention")(inputs, inputs)
    with pytest.raises(UserError, match="saved by an earlier version"):
        weights_to_official(keras.Model(inputs, attended, name="vit_tiny"), "vit")


def test_entries_take_golden_layout_and_torch_layout():
    unet = build_unet(32, 3, base=8)
    randomize(unet)
    keras_layout = {
        name: array.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim, range(array.ndim)))
        for name, array in weights_to_official(unet, "unet").items()
    }
    for entry in official_mapping(unet, "unet"):
        value = keras.ops.convert_to_numpy(entry.variable)
        np.testing.assert_array_equal(entry.to_keras(keras_layout[entry.official_name]), value)
        np.testing.assert_array_equal(entry.from_torch(entry.to_torch(value)), value)
