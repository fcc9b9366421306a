"""The families of encoders behind `build_encoder`, and the table of their names.

keras-cv's networks are built from their classes with explicit numbers: its named presets ask a
model hub, even for random weights. Another provider would replace `_keras_cv` alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import keras

from adios_tf.encoders.names import BACKBONE_LINES
from adios_tf.encoders.rebuild import Family, Plan, rebuild
from adios_tf.encoders.vit import build_vit
from adios_tf.errors import UserError
from adios_tf.nets.initializers import kaiming_kernel
from adios_tf.registry import Registry

BACKBONES = Registry("backbone")
_LARGEST_SMALL = 64
# Output channels, kernel side and stride of each convolution at width 1.
_CONVNET = ((32, 4, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1))
_RESNET_STEM = ("conv1_conv", 4, ("pool1_pool",))


def pooled(inputs: keras.KerasTensor, x: keras.KerasTensor, name: str) -> keras.Model:
    """Returns the model from `inputs` to `x` [B,h,w,D] or [B,D] as float32 features [B,D]."""
    full = keras.config.floatx()
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(dtype=full, name="features")(x)
    else:
        x = keras.layers.Activation("linear", dtype=full, name="features")(x)
    return keras.Model(inputs, x, name=name)


def _keras_cv(
    family: Family,
    arguments: dict[str, Any],
    name: str,
    image_size: int,
    in_channels: int,
    plan: Plan,
) -> keras.Model:
    import keras_cv

    of_resnets = plan.padding == "torch" or plan.stem == "adios_cifar"
    if of_resnets and family.network != "ResNetBackbone":
        raise UserError(
            f"backbone {name} has neither padding torch nor stem adios_cifar: "
            "resnet18, resnet34 and resnet50 have"
        )
    if plan.stem == "auto":
        plan = replace(plan, stem="small" if image_size <= _LARGEST_SMALL else "imagenet")
    # Some of these networks pad by the parity of their maps. The original is built for images so
    # large that its blocks see the sizes that ours see behind the small stem.
    side = image_size * (1 if plan.stem == "imagenet" else family.shrinks)
    network = getattr(keras_cv.models, family.network)(
        include_rescaling=False, input_shape=(side, side, in_channels), **arguments
    )
    inputs = keras.Input((image_size, image_size, in_channels), name="image")
    return pooled(inputs, rebuild(network, inputs, family, plan), name)


def _vit(
    width: int,
    heads: int,
    name: str,
    image_size: int,
    in_channels: int,
    plan: Plan,
    *,
    patch: int | None = None,
) -> keras.Model:
    _refuse_choices(name, plan)
    return build_vit(
        image_size, width=width, heads=heads, patch=patch, in_channels=in_channels, name=name
    )


def _convnet(
    name: str, image_size: int, in_channels: int, plan: Plan, *, width: float = 1.0
) -> keras.Model:
    """A small encoder for 32-pixel images on a CPU: [B,S,S,C] to float32 [B,256 x width].

    Convolution, BatchNorm and ReLU four times. The image is halved at once: on a CPU the maps at
    full size would cost more than all the rest.
    """
    _refuse_choices(name, plan)
    x = inputs = keras.Input((image_size, image_size, in_channels), name="image")
    for i, (filters, kernel, stride) in enumerate(_CONVNET):
        x = keras.layers.Conv2D(
            max(1, round(filters * width)),
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=kaiming_kernel(),
            name=f"conv_{i}",
        )(x)
        x = keras.layers.BatchNormalization(**plan.batchnorm, name=f"norm_{i}")(x)
        x = keras.layers.ReLU(name=f"relu_{i}")(x)
    return pooled(inputs, x, name)


def _refuse_choices(name: str, plan: Plan) -> None:
    if plan.stem != "auto" or plan.padding != "same":
        raise UserError(f"backbone {name} has no choice of stem or padding: leave both out")


def _register(name: str, build: Callable[..., keras.Model]) -> None:
    BACKBONES.register(name, BACKBONE_LINES[name])(build)


def _register_keras_cv(name: str, family: Family, **arguments: Any) -> None:
    _register(name, partial(_keras_cv, family, arguments))


_register("convnet_small", _convnet)

for _suffix, _family in (
    ("", Family("ResNetBackbone", *_RESNET_STEM)),
    ("_v2", Family("ResNetV2Backbone", *_RESNET_STEM)),
):
    for _depth, _block, _repeats in (
        (18, "basic_block", [2, 2, 2, 2]),
        (34, "basic_block", [3, 4, 6, 3]),
        (50, "block", [3, 4, 6, 3]),
    ):
        _register_keras_cv(
            f"resnet{_depth}{_suffix}",
            _family,
            block_type=_block,
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=_repeats,
            stackwise_strides=[1, 2, 2, 2],
        )

_S_STAGES = ([2, 4, 4, 6, 9, 15], [24, 24, 48, 64, 128, 160], [24, 48, 64, 128, 160, 256])
_B_STAGES = ([1, 2, 2, 3, 5, 8], [32, 16, 32, 48, 96, 112], [16, 32, 48, 96, 112, 192])
for _size, _width, _deep, (_repeats, _in, _out) in (
    ("b0", 1.0, 1.0, _B_STAGES),
    ("b1", 1.0, 1.1, _B_STAGES),
    ("b2", 1.1, 1.2, _B_STAGES),
    ("b3", 1.2, 1.4, _B_STAGES),
    ("s", 1.0, 1.0, _S_STAGES),
):
    _register_keras_cv(
        f"efficientnetv2_{_size}",
        Family("EfficientNetV2Backbone", "stem_conv", 2),
        width_coefficient=_width,
        depth_coefficient=_deep,
        stackwise_num_repeats=_repeats,
        stackwise_input_filters=_in,
        stackwise_output_filters=_out,
        stackwise_kernel_sizes=[3] * 6,
        stackwise_expansion_ratios=[1, 4, 4, 4, 6, 6],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.0, 0.0, 0.25, 0.25, 0.25],
        stackwise_strides=[1, 2, 2, 2, 1, 2],
        stackwise_conv_types=["fused"] * 3 + ["unfused"] * 3,
        skip_connection_dropout=0.0,
    )

_register_keras_cv(
    "mobilenetv3_small",
    Family("MobileNetV3Backbone", "Conv", 2),
    stackwise_expansion=[1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    stackwise_filters=[16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
    stackwise_kernel_size=[3] * 3 + [5] * 8,
    stackwise_stride=[2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    stackwise_se_ratio=[0.25, None, None] + [0.25] * 8,
    stackwise_activation=["relu"] * 3 + ["hard_swish"] * 8,
)
_register_keras_cv(
    "mobilenetv3_large",
    Family("MobileNetV3Backbone", "Conv", 2),
    stackwise_expansion=[1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
    stackwise_filters=[16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    stackwise_kernel_size=[3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
    stackwise_stride=[1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    stackwise_se_ratio=[None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
    stackwise_activation=["relu"] * 6 + ["hard_swish"] * 9,
)
_register_keras_cv(
    "densenet121",
    Family("DenseNetBackbone", "conv1_conv", 4, ("pool1",), fan="fan_in"),
    stackwise_num_repeats=[6, 12, 24, 16],
)
_register("vit_tiny", partial(_vit, 192, 3))
_register("vit_small", partial(_vit, 384, 6))
