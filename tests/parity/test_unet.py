"""The masker against the official U-Net (unet_*.npz): every such file in the golden directory."""

import keras
import numpy as np
import pytest

from adios_tf.nets import build_unet
from adios_tf.nets.torch_weights import to_keras_layout, weights_from_official, weights_to_official


@pytest.mark.files("unet_*")
def test_masks(golden, name):
    file = golden(name)
    meta, x = file.meta, file["x"]
    weights = file.group("weights/keras/")
    side, settings = x.shape[1], {"base": meta["mask_fbase"], "norm": meta["norm"]}
    unet = build_unet(side, meta["N"], num_blocks=meta["num_blocks"], **settings)
    used = weights_from_official(unet, "unet", weights, layout="keras")
    assert used == set(weights)

    before_head = unet.get_layer("mask_logits").input
    logits, features = keras.Model(unet.input, [unet.output, before_head])(x)
    masks = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(masks, file["masks"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(masks.mean((1, 2)), file["area"], rtol=0, atol=1e-5)
    if "features" in file.files:
        np.testing.assert_allclose(features, file["features"], rtol=1e-4, atol=1e-5)

    back = weights_to_official(unet, "unet")
    official = file.group("weights/torch/")
    assert set(back) == set(official)
    for key, array in official.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
        np.testing.assert_array_equal(to_keras_layout(array), weights[key], err_msg=key)
