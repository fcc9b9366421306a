"""The masker: a U-Net that looks at an image and says which pixels belong to which mask.

Architecture of ADIOS (arXiv 2201.13100, official code; its U-Net follows GENESIS-v2):
down blocks with skips, a three-layer perceptron on the flattened bottleneck, up blocks,
a 1x1 convolution. Initial weights are PyTorch's defaults, as in the official code.
"""

import math
from typing import Literal

import keras

from adios_tf.errors import UserError
from adios_tf.nets.initializers import torch_default
from adios_tf.registry import check_choice

Norm = Literal["gn", "in", "no"]
HEAD_NAME = "mask_logits"
# The largest bottleneck of the official recipes: 224 pixels with 4 blocks. The perceptron
# grows with the fourth power of this side, so that anything above is a mistake.
_MAX_BOTTLENECK = 28
_GROUPS = 8
_MLP_WIDTH = 128


def default_num_blocks(image_size: int) -> int:
    """Depth of the U-Net for a square image of `image_size` pixels a side.

    The official rule int(log2(image_size) - 1) (32 -> 4, 64 and 96 -> 5, 128 to 224 -> 6),
    at most 6; where the side cannot be halved that often, the largest depth at which it can
    (36, 44 and 100 -> 3).

    Raises:
      UserError: the bottleneck of the deepest possible U-Net would be larger than 28 pixels.
    """
    blocks = min(6, int(math.log2(max(image_size, 2)) - 1))
    while blocks > 1 and image_size % 2 ** (blocks - 1):
        blocks -= 1
    if blocks < 2 or image_size // 2 ** (blocks - 1) > _MAX_BOTTLENECK:
        step = 8 if image_size <= 8 * _MAX_BOTTLENECK else 32
        near = max(16, round(image_size / step) * step)
        raise UserError(
            f"the masker cannot halve an image side of {image_size} often enough: "
            f"take {near}, or another multiple of {step}"
        )
    return blocks


def block_widths(num_blocks: int, base: int) -> tuple[list[int], list[int]]:
    """Returns the output channels of the down blocks and of the up blocks.

    Official for 4, 5 and 6 blocks (sheet of ADIOS, U-Net): the last three down blocks and the
    first two up blocks have 2 x base, the rest base. Fewer blocks keep one narrow block at the
    image's full size on either side; more blocks continue the rule.
    """
    narrow_down = max(1, num_blocks - 3)
    wide_up = min(2, num_blocks - 1)
    down = [base] * narrow_down + [2 * base] * (num_blocks - narrow_down)
    up = [2 * base] * wide_up + [base] * (num_blocks - wide_up)
    return down, up


def build_unet(
    image_size: int,
    num_outputs: int,
    *,
    base: int = 32,
    norm: Norm = "gn",
    num_blocks: int | None = None,
    in_channels: int = 3,
) -> keras.Model:
    """Builds the masker: normalized images [B,S,S,C] to float32 mask logits [B,S,S,num_outputs].

    The masks are the softmax of the logits over the last axis; that is left to the caller.
    The 1x1 convolution at the end is the layer `mask_logits`.

    Args:
      image_size: side S of the images.
      num_outputs: number of masks N.
      base: channels of the widest maps (`mask_fbase` of the official code).
      norm: "gn" GroupNorm of 8 groups, "in" InstanceNorm with scale and offset, "no" none, with
        a bias in the convolutions instead. None of them looks at other images of the batch.
      num_blocks: depth; by default `default_num_blocks(image_size)`.
      in_channels: channels C of the images.

    Raises:
      UserError: the side cannot be halved as often as the depth needs, or a width does not fit.
    """
    check_choice("norm of the masker", norm, ("gn", "in", "no"))
    if norm == "gn" and base % _GROUPS:
        raise UserError(f"a masker with norm gn needs a width divisible by {_GROUPS}, not {base}")
    if num_outputs < 1 or base < 1:
        raise UserError(f"a masker needs positive widths, not {num_outputs} masks, base {base}")
    if num_blocks is None:
        num_blocks = default_num_blocks(image_size)
    side, remainder = divmod(image_size, 2 ** max(0, num_blocks - 1))
    if num_blocks < 2 or remainder or not 0 < side <= _MAX_BOTTLENECK:
        raise UserError(
            f"a masker of {num_blocks} blocks does not fit an image side of {image_size}: "
            f"take {default_num_blocks(image_size)} blocks"
        )
    down, up = block_widths(num_blocks, base)

    x = inputs = keras.Input((image_size, image_size, in_channels), name="image")
    skips = []
    for k, width in enumerate(down):
        x = _block(x, width, norm, f"down_{k}")
        skips.append(x)
        if k < num_blocks - 1:
            # A pool of one pixel with stride two keeps the even rows and columns, and its
            # gradient on the CPU is six times faster than that of a strided slice.
            x = keras.layers.AveragePooling2D(1, strides=2, name=f"halve_{k}")(x)
    x = _bottleneck(x)
    for k, width in enumerate(up):
        x = keras.layers.Concatenate(name=f"join_{k}")([x, skips.pop()])
        x = _block(x, width, norm, f"up_{k}")
        if k < num_blocks - 1:
            x = keras.layers.UpSampling2D(2, name=f"double_{k}")(x)
    logits = keras.layers.Conv2D(
        num_outputs, 1, **torch_default(x.shape[-1]), dtype=keras.config.floatx(), name=HEAD_NAME
    )(x)
    return keras.Model(inputs, logits, name="masker")


def _block(x: keras.KerasTensor, width: int, norm: Norm, name: str) -> keras.KerasTensor:
    """3x3 convolution, normalization, ReLU; the image's size stays."""
    x = keras.layers.Conv2D(
        width,
        3,
        padding="same",
        use_bias=norm == "no",
        **torch_default(9 * x.shape[-1]),
        name=f"{name}_conv",
    )(x)
    if norm != "no":
        x = keras.layers.GroupNormalization(
            _GROUPS if norm == "gn" else -1, epsilon=1e-5, name=f"{name}_norm"
        )(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _bottleneck(x: keras.KerasTensor) -> keras.KerasTensor:
    """Lets every position of the smallest map see every other: a perceptron on the flat map.

    Flattened in order H, W, C (PyTorch: C, H, W; `official` converts).
    """
    shape = x.shape[1:]
    x = keras.layers.Flatten(name="flatten")(x)
    for i, width in enumerate((_MLP_WIDTH, _MLP_WIDTH, math.prod(shape))):
        initial = torch_default(x.shape[-1])
        x = keras.layers.Dense(width, activation="relu", name=f"mlp_{i}", **initial)(x)
    return keras.layers.Reshape(shape, name="unflatten")(x)
