"""The small model that many tests train, save or compare."""

import keras


def encoder(side: int, width: int, kernel: int = 3, strides: int = 1) -> keras.Sequential:
    """Images [B,S,S,3] -> features [B,width]: convolution, BatchNorm as in PyTorch, ReLU, mean."""
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Conv2D(width, kernel, strides, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
