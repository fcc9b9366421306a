"""Initial weights as PyTorch draws them, which is what the papers' numbers start from."""

import math
from typing import Any, Literal

import keras


def torch_default(fan_in: int) -> dict[str, Any]:
    """PyTorch's default kernel and bias of a linear or convolution layer, as Keras's arguments.

    Both are U(-a, a) with a = 1/sqrt(fan_in).
    """
    bound = 1 / math.sqrt(fan_in)
    uniform = {"mode": "fan_in", "distribution": "uniform"}
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(1 / 3, **uniform),
        "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
    }


def kaiming_kernel(
    mode: Literal["fan_in", "fan_out"] = "fan_out",
) -> keras.initializers.Initializer:
    """He et al.'s kernel of a convolution before a ReLU, N(0, 2/fan), as torchvision draws it."""
    return keras.initializers.VarianceScaling(2.0, mode=mode, distribution="untruncated_normal")
