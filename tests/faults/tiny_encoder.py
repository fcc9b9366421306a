"""A plugin: one convolution, so that whole runs take seconds."""

import keras

from adios_tf.encoders import BACKBONES


@BACKBONES.register("tiny", "one convolution, for tests of whole runs")
def tiny(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, synchronized=True)(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
