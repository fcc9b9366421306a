"""A pretrained encoder for images of another side, and with ADIOS's stem for CIFAR."""

from typing import Any

import keras
import numpy as np

from adios_tf.errors import UserError

_STEM, _PADS = "conv1_conv", ("conv1_conv_pad", "pool1_pool_pad", "pool1_pool")


def at_side(encoder: keras.Model, image_size: int) -> keras.Model:
    """Returns the encoder for normalized images [B,S,S,C] of another side, with its weights.

    `UserError` where these belong to one side, as the position table of a ViT does.
    """
    if encoder.input_shape[1] == image_size:
        return encoder
    inputs = keras.Input((image_size, image_size, encoder.input_shape[-1]), name="image")
    try:
        clone = keras.models.clone_model(encoder, input_tensors=inputs)
        clone.set_weights(encoder.get_weights())
    except (ValueError, TypeError) as error:
        raise UserError(
            f"encoder {encoder.name} only takes images of its {encoder.input_shape[1]} pixels: "
            f"give --image_size={encoder.input_shape[1]}"
        ) from error
    return clone


def with_cifar_stem(encoder: keras.Model, seed: int) -> keras.Model:
    """Returns a ResNet whose first convolution is replaced, with all its other weights.

    The new one has 3x3 pixels, stride 1, 2 pixels of padding and PyTorch's default first weights;
    the max-pool goes. ADIOS's fine-tuning does so on CIFAR, whatever stem was pretrained.
    `UserError` unless it is one of the ResNets of `build_encoder`.
    """
    names = {layer.name for layer in encoder.layers}
    if _STEM not in names:
        raise UserError(
            f"encoder {encoder.name} has no ResNet stem to replace: give --finetune_stem=keep"
        )

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name == _STEM:
            config |= {"kernel_size": 3, "strides": 1, "padding": "valid"}
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if layer.name in _PADS:
            return args[0]
        if layer.name == _STEM:
            args = (keras.layers.ZeroPadding2D(2, name="cifar_pad")(*args),)
        return layer(*args, **kwargs)

    inputs = keras.Input(encoder.input_shape[1:], name="image")
    changed = keras.models.clone_model(
        encoder, input_tensors=inputs, clone_function=clone, call_function=call
    )
    for layer in changed.layers:
        if layer.name != _STEM and layer.weights:
            layer.set_weights(encoder.get_layer(layer.name).get_weights())
    stem = changed.get_layer(_STEM)
    shape = stem.kernel.shape
    bound = np.prod(shape[:3]) ** -0.5
    drawn = np.random.default_rng(seed).uniform(-bound, bound, shape)
    stem.set_weights([drawn, *stem.get_weights()[1:]])
    return changed
