import keras
import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.nets import build_unet, default_num_blocks
from adios_tf.nets.unet import block_widths


@pytest.mark.parametrize(
    ("size", "masks", "settings", "parameters"),
    [
        (96, 4, {"norm": "in"}, 933_284),
        (96, 6, {}, 933_350),
        (96, 6, {"base": 16}, 394_358),
        (96, 6, {"base": 8}, 185_342),
        (96, 6, {"base": 128}, 7_554_182),
        (96, 4, {"base": 16, "num_blocks": 4}, 1_275_540),
        (224, 6, {}, 1_174_950),
        (224, 4, {"num_blocks": 4}, 13_208_612),
        (224, 4, {"base": 8}, 240_540),
    ],
)
def test_parameters_of_the_official_masker(size, masks, settings, parameters):
    assert build_unet(size, masks, **settings).count_params() == parameters


@pytest.mark.parametrize(
    ("size", "blocks"),
    {
        32: 4,
        40: 4,
        48: 4,
        56: 4,
        64: 5,
        80: 5,
        96: 5,
        112: 5,
        128: 6,
        160: 6,
        192: 6,
        224: 6,
    }.items(),
)
def test_official_depth(size, blocks):
    assert default_num_blocks(size) == blocks


def test_depth_of_other_sizes():
    others = {16: 3, 36: 3, 44: 3, 50: 2, 72: 4, 100: 3, 144: 5, 256: 6}
    assert {size: default_num_blocks(size) for size in others} == others


def test_every_size_is_either_built_or_refused_with_one_that_is_built():
    for size in range(8, 300):
        try:
            blocks = default_num_blocks(size)
        except UserError as error:
            advised = int(str(error).split("take ")[1].split(",")[0])
            assert default_num_blocks(advised) >= 3
            continue
        assert size % 2 ** (blocks - 1) == 0
        assert size // 2 ** (blocks - 1) <= 28


@pytest.mark.parametrize(
    ("blocks", "down", "up"),
    [
        (2, [1, 2], [2, 1]),
        (3, [1, 2, 2], [2, 2, 1]),
        (4, [1, 2, 2, 2], [2, 2, 1, 1]),
        (5, [1, 1, 2, 2, 2], [2, 2, 1, 1, 1]),
        (6, [1, 1, 1, 2, 2, 2], [2, 2, 1, 1, 1, 1]),
    ],
)
def test_widths(blocks, down, up):
    assert block_widths(blocks, 1) == (down, up)


@pytest.mark.parametrize("size", [36, 44, 48, 100])
def test_sizes_that_the_official_code_does_not_have(size):
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    logits = build_unet(size, 3, base=8)(images)
    assert logits.shape == (2, size, size, 3)
    assert np.ptp(logits) > 0


def test_what_an_image_gets_does_not_depend_on_the_batch():
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    for norm in ("gn", "in", "no"):
        unet = build_unet(32, 2, base=8, norm=norm)
        together = unet(images, training=True)
        np.testing.assert_allclose(together[1:2], unet(images[1:2]), atol=1e-5)
        assert not any(isinstance(x, keras.layers.BatchNormalization) for x in unet.layers)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_reload_equal(tmp_path, channels):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, channels)).astype("float32")
    unet = build_unet(32, 2, base=8, norm="in", in_channels=channels)
    unet.save(tmp_path / "masker.keras")
    again = keras.models.load_model(tmp_path / "masker.keras")
    np.testing.assert_array_equal(unet(images), again(images))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_under_mixed_precision(policy):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    exact = build_unet(32, 3, base=8)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = build_unet(32, 3, base=8)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    assert mixed.get_layer("down_0_conv").compute_dtype == policy.removeprefix("mixed_")
    logits = mixed(images)
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, exact(images), atol=0.05)
    assert mixed.get_layer("mask_logits").compute_dtype == "float32"


def test_first_weights_are_those_of_pytorch():
    unet = build_unet(64, 4, base=32, norm="no")
    for name in ("down_3_conv", "mlp_1", "mask_logits"):
        kernel, bias = unet.get_layer(name).get_weights()
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        assert 0.1 * bound < np.abs(bias).max() <= bound


@pytest.mark.parametrize(
    ("size", "masks", "settings", "words"),
    [
        (33, 4, {}, "multiple of 8"),
        (116, 4, {}, "take 112"),
        (300, 4, {}, "multiple of 32"),
        (36, 4, {"num_blocks": 4}, "take 3 blocks"),
        (224, 4, {"num_blocks": 3}, "take 6 blocks"),
        (32, 4, {"num_blocks": 1}, "take 4 blocks"),
        (32, 4, {"norm": "bn"}, "known are gn, in, no"),
        (32, 4, {"base": 12}, "divisible by 8"),
        (32, 0, {}, "positive"),
    ],
)
def test_what_does_not_fit_is_refused(size, masks, settings, words):
    with pytest.raises(UserError, match=words):
        build_unet(size, masks, **settings)
