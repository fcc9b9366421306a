import socket

import keras
import numpy as np
import pytest
from scipy import stats

from adios_tf.encoders import BACKBONES, as_encoder, build_encoder
from adios_tf.encoders.vit import build_vit
from adios_tf.errors import UserError
from adios_tf.nets.torch_weights import weights_to_official

# Trainable and running numbers together, of the published networks without their classifiers.
PUBLISHED = {
    "resnet18": 11_186_112,
    "mobilenetv3_small": 939_120,
    "vit_tiny": 5_493_696,
}
PUBLISHED_LARGE = {
    "resnet34": 21_301_696,
    "resnet50": 23_561_152,
    "resnet50_v2": 23_564_800,
    "efficientnetv2_s": 20_331_360,
    "efficientnetv2_b0": 5_919_312,
    "efficientnetv2_b1": 6_931_124,
    "efficientnetv2_b2": 8_769_374,
    "efficientnetv2_b3": 12_930_622,
    "mobilenetv3_large": 2_996_352,
    "densenet121": 7_037_504,
    "vit_small": 21_604_224,
}
FAMILIES = {
    "convnet_small": {},
    "resnet18": {"stackwise_blocks": [1, 1, 1, 1]},
    "resnet50": {"stackwise_blocks": [1, 1, 1, 1], "stackwise_filters": [16, 16, 16, 16]},
    "resnet18_v2": {},
    "efficientnetv2_b0": {"stackwise_num_repeats": [1] * 6, "width_coefficient": 0.5},
    "mobilenetv3_small": {
        "stackwise_expansion": [1, 4.5, 4, 6],
        "stackwise_filters": [16, 24, 40, 48],
        "stackwise_kernel_size": [3, 3, 5, 5],
        "stackwise_stride": [2, 2, 2, 2],
        "stackwise_se_ratio": [0.25, None, 0.25, 0.25],
        "stackwise_activation": ["relu", "relu", "hard_swish", "hard_swish"],
    },
    "densenet121": {"stackwise_num_repeats": [2, 2, 2, 2], "growth_rate": 8},
    "vit_tiny": {},
}


def images(size=32, channels=3, count=4):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.fixture
def small(monkeypatch):
    """Returns a builder of a family's smallest member, the code that builds the large ones."""

    def build(name, size=32, **settings):
        if name == "vit_tiny":
            return build_vit(size, width=24, heads=3, depth=2, patch=8, name=name)
        for key, value in FAMILIES.get(name, {}).items():
            monkeypatch.setitem(BACKBONES[name].args[1], key, value)
        return build_encoder(name, size, **settings)

    return build


def maps(model):
    return model.get_layer("features").input.shape[1:]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_the_published_network(name):
    assert build_encoder(name, 96).count_params() == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_LARGE)
def test_parameters_of_the_larger_published_networks(name):
    assert build_encoder(name, 96).count_params() == PUBLISHED_LARGE[name]


def test_vit_starts_with_the_weights_of_timm():
    """Each tensor of ViT-Tiny at 96 pixels, at a level of 0.001 divided by their number.

    timm 0.5.4 draws N(0, 0.02) (cut at +-2: never), and PyTorch's U(-a, a) with a = 1/sqrt(fan in)
    for the patches; biases are 0, scales 1. The mean by a z-test, the deviation by the normal
    approximation of the variance's spread, both from the drawn law's moments; the range exactly
    for the uniform ones, and below 7 deviations for the others.
    """
    keras.utils.set_random_seed(0)
    weights = weights_to_official(build_encoder("vit_tiny", 96), "vit", prefix="")
    limit = stats.norm.isf(1e-3 / 2 / (2 * len(weights)))
    for name, array in weights.items():
        if "patch_embed" in name:
            edge, kurtosis = 1 / np.sqrt(3 * 16 * 16), 9 / 5
            deviation = edge / np.sqrt(3)
            assert 0.98 * edge < np.abs(array).max() <= edge, name
        elif name.endswith("bias") or "norm" in name:
            np.testing.assert_array_equal(array, float("norm" in name and "weight" in name))
            continue
        else:
            deviation, kurtosis = 0.02, 3
            assert 2.3 * deviation < np.abs(array).max() < 7 * deviation, name
        assert abs(array.mean()) < limit * deviation / np.sqrt(array.size), name
        spread = np.sqrt((kurtosis - 1) / array.size) * deviation**2
        assert abs((array**2).mean() - deviation**2) < limit * spread, name


def test_parameters_of_vit_tiny_at_224():
    assert build_encoder("vit_tiny", 224).count_params() == 5_524_416


def test_every_name_is_covered_and_described():
    # Other test modules register encoders of their own in this process, named test_*.
    ours = {name for name in BACKBONES if not name.startswith("test_")}
    assert {*PUBLISHED, *PUBLISHED_LARGE, *FAMILIES, "resnet34_v2"} == ours
    assert all(0 < len(line) < 80 for line in BACKBONES.lines().values())


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, small, tmp_path, monkeypatch):
    """Features, BatchNorm's settings, and a reload; and nobody asks the network for anything."""

    def refuse(*_):
        raise AssertionError("an encoder was built with a connection to somewhere")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = small(name)
    x = images()
    model(x, training=True)
    features = model(x)
    assert features.shape == (4, model.output_shape[-1])
    assert features.dtype == "float32"
    assert np.ptp(features, axis=0).max() > 0
    norms = [y for y in model._flatten_layers() if isinstance(y, keras.layers.BatchNormalization)]
    assert bool(norms) == (name != "vit_tiny")
    for norm in norms:
        assert (norm.momentum, norm.epsilon, norm.synchronized) == (0.9, 1e-5, True)
    modules = {type(layer).__module__.split(".")[0] for layer in model.layers}
    assert modules <= {"keras", "adios_tf"}
    model.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(again(x), features)


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_precision(name, small):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(name)
    finally:
        keras.config.set_dtype_policy("float32")
    features = model(images(), training=True)
    assert features.dtype == "float32"
    assert np.isfinite(features).all()
    first = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D))
    assert first.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "small_side", "large_side"),
    [
        ("resnet18", 8, 3),
        ("resnet18_v2", 8, 3),
        ("densenet121", 8, 3),
        ("efficientnetv2_b0", 4, 3),
        ("mobilenetv3_small", 4, 3),
    ],
)
def test_stem_by_image_size(name, small_side, large_side, small):
    assert maps(small(name, 64))[0] == small_side
    assert maps(small(name, 96))[0] == large_side


def test_stem_of_resnet(small):
    for stem, kernel, stride, pooled in (("small", 3, 1, False), ("imagenet", 7, 2, True)):
        model = small("resnet18", 48, stem=stem)
        conv = model.get_layer("conv1_conv")
        assert (conv.kernel_size, conv.strides) == ((kernel, kernel), (stride, stride))
        assert ("pool1_pool" in [x.name for x in model.layers]) == pooled
    assert maps(small("resnet18", 32, stem="imagenet")) == (1, 1, 512)
    model = small("resnet18", 32, stem="adios_cifar", padding="torch")
    assert model.get_layer("conv1_conv").output.shape == (None, 34, 34, 64)
    assert maps(model) == (5, 5, 512)


@pytest.mark.parametrize("size", [33, 47, 97])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small"])
def test_odd_sizes(name, size, small):
    assert small(name, size)(images(size)).shape[0] == 4


def test_padding_that_depends_on_parity_fits_the_maps_behind_the_small_stem(small):
    for size, before in ((34, 0), (33, 1)):
        pad = small("mobilenetv3_small", size).get_layer("expanded_conv_depthwise_pad")
        assert pad.input.shape[1] == size
        assert pad.padding == ((before, 1), (before, 1))


def test_torch_padding_strides_where_torchvision_does(small):
    keras_like, torch_like = small("resnet50"), small("resnet50", padding="torch")
    assert keras_like.count_params() == torch_like.count_params()
    for model, first, second in ((keras_like, 2, 1), (torch_like, 1, 2)):
        for stack in (1, 2, 3):
            block = f"v2_stack_{stack}_block1_"
            assert model.get_layer(f"{block}1_conv").strides == (first, first)
            assert model.get_layer(f"{block}2_conv").strides == (second, second)
            assert model.get_layer(f"{block}0_conv").strides == (2, 2)
    assert torch_like.get_layer("v2_stack_1_block1_2_conv_pad").padding == ((1, 1), (1, 1))
    assert maps(torch_like) == maps(keras_like)


def test_first_weights_of_resnet_are_those_of_torchvision(small):
    kernel = small("resnet18").get_layer("v2_stack_3_block1_2_conv").get_weights()[0]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 512)), rtol=0.01)
    assert np.abs(kernel).max() > 4 * kernel.std()


def test_options_and_channels():
    whole, half = (
        build_encoder("convnet_small", 32),
        build_encoder("convnet_small", 32, width=0.5),
    )
    assert half.output_shape[-1] * 2 == whole.output_shape[-1]
    assert 3.5 < whole.count_params() / half.count_params() < 4.5
    assert build_encoder("vit_tiny", 32, patch=16).get_layer("tokens").output.shape[1] == 5
    assert build_encoder("vit_tiny", 32).get_layer("tokens").output.shape[1] == 65
    gray = build_encoder("resnet18", 32, in_channels=1)
    assert gray(images(channels=1)).shape == (4, 512)
    other = build_encoder("convnet_small", 32, batchnorm_momentum=0.8, batchnorm_epsilon=1e-3)
    assert (other.get_layer("norm_0").momentum, other.get_layer("norm_0").epsilon) == (0.8, 1e-3)


@pytest.mark.parametrize(
    ("name", "size", "settings", "words"),
    [
        ("resnet_18", 32, {}, "did you mean 'resnet18'"),
        ("resnet18", 8, {}, "16 pixels or more"),
        ("resnet18", 32, {"stem": "tiny"}, "known are adios_cifar, auto, imagenet, small"),
        ("resnet18", 32, {"padding": "valid"}, "known are same, torch"),
        ("resnet18", 32, {"width": 0.5}, "resnet18 has no option width"),
        ("resnet18_v2", 32, {"padding": "torch"}, "resnet18, resnet34 and resnet50 have"),
        ("densenet121", 32, {"stem": "adios_cifar"}, "resnet18, resnet34 and resnet50 have"),
        ("vit_tiny", 32, {"stem": "small"}, "no choice of stem"),
        ("vit_tiny", 100, {}, "patches of 16 pixels"),
        ("convnet_small", 32, {"padding": "torch"}, "no choice of stem or padding"),
    ],
)
def test_what_a_family_does_not_have_is_refused(name, size, settings, words):
    with pytest.raises(UserError, match=words):
        build_encoder(name, size, **settings)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(5, 3, strides=2)

    def call(self, x):
        return self.conv(x)


def users_model(output):
    x = keras.Input((32, 32, 3))
    return keras.Model(x, output(x), name="mine")


def test_a_users_model_becomes_an_encoder():
    x = images()
    mine = Subclassed()
    encoder = as_encoder(mine, 32)
    np.testing.assert_allclose(encoder(x), np.mean(mine(x), (1, 2)), atol=1e-5)
    assert encoder.trainable_variables[0] is mine.conv.kernel

    flat = users_model(lambda x: keras.layers.GlobalMaxPooling2D()(x))
    np.testing.assert_array_equal(as_encoder(flat, 32)(x), flat(x))

    half = users_model(lambda x: keras.layers.Conv2D(4, 3, dtype="bfloat16")(x))
    assert as_encoder(half, 32)(x).dtype == "float32"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: users_model(lambda x: [x, x]), "must give one tensor"),
        (lambda: users_model(lambda x: {"a": x}), "must give one tensor"),
        (lambda: users_model(lambda x: keras.layers.Reshape((1024, 3))(x)), r"\[B,1024,3\]"),
        (lambda: keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten()]), "not take"),
        (lambda: keras.layers.Dense(3), "must be a keras.Model, not Dense"),
    ],
)
def test_a_users_model_that_is_no_encoder_is_refused(model, words):
    with pytest.raises(UserError, match=words) as error:
        as_encoder(model(), 32)
    assert "\n" not in str(error.value)
