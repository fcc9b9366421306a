"""Encoders by name: normalized images in, one feature vector per image out."""

from typing import Any, Literal, get_args

import keras

from adios_tf.encoders.builders import BACKBONES, pooled
from adios_tf.encoders.rebuild import Plan
from adios_tf.errors import UserError
from adios_tf.registry import check_choice

StemKind = Literal["auto", "small", "imagenet", "adios_cifar"]
_SMALLEST = 16


def build_encoder(
    name: str,
    image_size: int,
    *,
    stem: StemKind = "auto",
    padding: Literal["same", "torch"] = "same",
    in_channels: int = 3,
    batchnorm_momentum: float = 0.9,
    batchnorm_epsilon: float = 1e-5,
    **options: Any,
) -> keras.Model:
    """Builds the encoder `name`: normalized images [B,S,S,C] to float32 features [B,D].

    Features are the global average of the last maps (ViT: the class token after the last
    LayerNorm), float32 under every precision policy. Weights are random: convolutions as in
    torchvision (He, fan_out) unless the family brings its own rule; see `vit` for ViT.

    Args:
      name: one of `BACKBONES`.
      image_size: side S of the square images, at least 16.
      stem: how the image enters. "imagenet" is the family's own stem, made for 224 pixels.
        "small" has a 3x3 convolution with stride 1 in its place and no pooling. "adios_cifar" is
        ADIOS's stem for CIFAR: the same with 2 pixels of padding, so that 32 pixels become 34.
        "auto" is "small" up to 64 pixels and "imagenet" above.
      padding: "same" is Keras's; "torch" pads strided layers on all sides alike and strides where
        torchvision does, so that weights from PyTorch give PyTorch's features (ResNet v1).
      in_channels: channels C of the images.
      batchnorm_momentum: share of the old running average that stays; 0.9 is PyTorch's 0.1.
      batchnorm_epsilon: PyTorch's default, not Keras's 1e-3. BatchNorm takes its statistics over
        all replicas.
      **options: the family's own: `width` (factor, convnet_small), `patch` (pixels, vit_*).

    Raises:
      UserError: unknown name, or a choice that the family does not have.
    """
    build = BACKBONES[name]
    if image_size < _SMALLEST:
        raise UserError(f"an encoder needs images of {_SMALLEST} pixels or more, not {image_size}")
    check_choice("stem", stem, get_args(StemKind))
    check_choice("padding", padding, ("same", "torch"))
    batchnorm = {"momentum": batchnorm_momentum, "epsilon": batchnorm_epsilon}
    plan = Plan(stem, padding, batchnorm | {"synchronized": True})
    try:
        model = build(name, image_size, in_channels, plan, **options)
    except TypeError as error:
        if not options or "unexpected keyword" not in str(error):
            raise
        raise UserError(f"backbone {name} has no option {', '.join(options)}") from error
    # A user's own may end in feature maps.
    one_row = len(getattr(model, "output_shape", ())) == 2
    return model if one_row else as_encoder(model, image_size, in_channels)


def as_encoder(model: keras.Model, image_size: int, in_channels: int = 3) -> keras.Model:
    """Takes a model of the user's own as encoder: [B,S,S,C] to float32 [B,D].

    Feature maps [B,h,w,D] are averaged over positions. The weights are the model's own, not a
    copy; its BatchNorm layers keep the user's settings.

    Args:
      model: images of `image_size` S and `in_channels` C -> features or feature maps.
      image_size: side S of the square images, in pixels.
      in_channels: C.

    Raises:
      UserError: the model does not take such images, or gives anything but [B,D] or [B,h,w,D].
    """
    if not isinstance(model, keras.Model):
        raise UserError(f"an encoder must be a keras.Model, not {type(model).__name__}")
    shape = (image_size, image_size, in_channels)
    inputs = keras.Input(shape, name="image")
    try:
        x = model(inputs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the encoder {model.name} does not take images of shape {shape}: {reason}"
        ) from error
    found: Any = getattr(x, "shape", ())
    if len(found) not in (2, 4) or found[-1] is None:
        got = f"[B,{','.join(map(str, found[1:]))}]" if found else type(x).__name__
        raise UserError(
            f"the encoder {model.name} gives {got}: it must give one tensor, features [B,D] or "
            "feature maps [B,h,w,D]"
        )
    return pooled(inputs, x, model.name)
