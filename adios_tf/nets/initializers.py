"""Initial weights as PyTorch draws them, which is what the papers' numbers start from."""

import math
from typing import Literal

import keras


def torch_kernel() -> keras.initializers.Initializer:
    """PyTorch's default kernel of a linear or convolution layer: U(-a, a), a = 1/sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def torch_bias(fan_in: int) -> keras.initializers.Initializer:
    """PyTorch's default bias: U(-a, a), a = 1/sqrt(fan_in) of the kernel beside it."""
    bound = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound)


def kaiming_kernel(
    mode: Literal["fan_in", "fan_out"] = "fan_out",
) -> keras.initializers.Initializer:
    """He et al.'s kernel of a convolution before a ReLU, N(0, 2/fan), as torchvision draws it."""
    return keras.initializers.VarianceScaling(2.0, mode=mode, distribution="untruncated_normal")
