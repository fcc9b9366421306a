"""Fixed filters: the Gaussian blur, and the high-pass of masked siamese networks."""

import keras
import numpy as np
from keras import ops

from adios_tf.errors import UserError


def gaussian_blur(images: keras.KerasTensor, kernel: int, sigma: float) -> keras.KerasTensor:
    """Blurs images [B,H,W,C], or the symbolic input of a model, mirrored beyond their edges.

    `kernel` is the odd side of the Gaussian in pixels, less than 2 H and 2 W, `sigma` its standard
    deviation in pixels.
    """
    reach = kernel // 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    padded = ops.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], mode="reflect")
    for shape in ((kernel, 1), (1, kernel)):
        weights = np.broadcast_to(taps.reshape(*shape, 1, 1), (*shape, images.shape[-1], 1))
        padded = ops.depthwise_conv(padded, ops.cast(weights, images.dtype), padding="valid")
    return padded


def build_high_pass(image_size: int, kernel: int = 11) -> keras.Model:
    """A model that maps images [B,S,S,3] to what a blurred copy of them lacks (MSCN).

    The recipe is a kernel of 11 pixels and a sigma of 5 at 224 pixels (papers: MixMask, a.8); for
    other kernels the sigma is scaled. The model is made of stock operations, so that it loads
    without this package. `UserError` where the kernel is even, below 3, or too large for the image.
    """
    if kernel < 3 or kernel % 2 == 0 or kernel // 2 >= image_size:
        raise UserError(
            f"--high_pass={kernel}: take an odd number of pixels from 3 on, "
            f"below twice the image side of {image_size}"
        )
    images = keras.Input((image_size, image_size, 3), name="image")
    sharp = images - gaussian_blur(images, kernel, kernel * 5 / 11)
    return keras.Model(images, sharp, name="high_pass")
