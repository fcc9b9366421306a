"""A small convolutional encoder for 32-pixel images on a CPU."""

import keras

from adios_tf.nets.initializers import kaiming_kernel

# Output channels, kernel side and stride of each convolution at width 1.
_LAYERS = ((32, 4, 2), (64, 3, 2), (128, 3, 2), (256, 3, 1))


def build_convnet(
    inputs: keras.KerasTensor,
    *,
    width: float = 1.0,
    batchnorm_momentum: float = 0.9,
    batchnorm_epsilon: float = 1e-5,
) -> keras.KerasTensor:
    """Returns feature maps [B,S/8,S/8,256 x width] of images [B,S,S,C].

    Convolution, BatchNorm and ReLU four times. The image is halved at once: on a CPU the maps at
    full size would cost more than all the rest.
    """
    x = inputs
    for i, (filters, kernel, stride) in enumerate(_LAYERS):
        x = keras.layers.Conv2D(
            max(1, round(filters * width)),
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=kaiming_kernel(),
            name=f"conv_{i}",
        )(x)
        x = keras.layers.BatchNormalization(
            momentum=batchnorm_momentum,
            epsilon=batchnorm_epsilon,
            synchronized=True,
            name=f"norm_{i}",
        )(x)
        x = keras.layers.ReLU(name=f"relu_{i}")(x)
    return x
