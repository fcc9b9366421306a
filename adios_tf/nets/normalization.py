"""BatchNorm and GroupNorm of a training step in fewer passes over the maps.

The layers stay Keras's own, so that what is saved loads without this package; only how those of one
model compute is replaced. Results agree with Keras's to rounding.
"""

from types import MethodType

import keras
import tensorflow as tf

from adios_tf import distribution


def use_fast_kernels(model: keras.Model) -> None:
    """Lets the normalization layers within `model` compute by the functions below.

    BatchNorm over maps [B,H,W,C] takes TensorFlow's fused kernel while it trains on one device:
    half the work of Keras's synchronized form, a third in bfloat16. In all other cases, on several
    devices too, a layer goes on as Keras has it.
    """
    fast = {
        keras.layers.BatchNormalization: _batch_norm,
        keras.layers.GroupNormalization: _group_norm,
    }
    for layer in model._flatten_layers():
        if type(layer) in fast:
            # An attribute of the instance, past Keras's tracking: copies and files know nothing.
            object.__setattr__(layer, "call", MethodType(fast[type(layer)], layer))


def _of_maps(layer: keras.layers.Layer, inputs: tf.Tensor) -> bool:
    """Whether the layer normalizes maps [B,H,W,C] and has float32 weights."""
    return len(inputs.shape) == 4 and layer.axis in (-1, 3) and layer.variable_dtype == "float32"


def _batch_norm(
    layer: keras.layers.BatchNormalization,
    inputs: tf.Tensor,
    training: bool | None = None,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    trains = training and layer.trainable and mask is None and not getattr(layer, "renorm", False)
    if not (_of_maps(layer, inputs) and trains and distribution.count() == 1):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    width = inputs.shape[-1]
    result = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma if layer.scale else tf.ones([width]),
        offset=layer.beta if layer.center else tf.zeros([width]),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=layer.epsilon,
    )
    # Keras averages the variance as it normalizes by, over n; the kernel hands out that over n - 1.
    pixels = tf.cast(tf.size(inputs) // width, tf.float32)
    variance = result.batch_variance * tf.maximum(pixels - 1, 1) / pixels
    for average, now in (
        (layer.moving_mean, result.batch_mean),
        (layer.moving_variance, variance),
    ):
        average.assign(average * layer.momentum + now * (1.0 - layer.momentum))
    return tf.cast(result.y, layer.compute_dtype)


def _group_norm(layer: keras.layers.GroupNormalization, inputs: tf.Tensor) -> tf.Tensor:
    if not (_of_maps(layer, inputs) and layer.scale and layer.center):
        return type(layer).call(layer, inputs)
    height, width, channels = inputs.shape[1:]
    per_group = channels // layer.groups
    count = float(height * width * per_group)

    # A row of the image is one axis [W*C]: sums and products along the few channels of a pixel
    # would leave most of the processor's vector unit idle.
    def rows(maps: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.cast(maps, tf.float32), [-1, height, width * channels])

    def total(maps: tf.Tensor) -> tf.Tensor:
        """[B,H,W*C] -> [B,1,C]."""
        pixels = tf.reshape(tf.reduce_sum(maps, axis=1), [-1, width, channels])
        return tf.reduce_sum(pixels, axis=1, keepdims=True)

    def mean(totals: tf.Tensor) -> tf.Tensor:
        """[B,1,C] -> the mean of each channel's group, [B,1,C]."""
        groups = tf.reshape(totals, [-1, layer.groups, per_group])
        return tf.repeat(tf.reduce_sum(groups, axis=2) / count, per_group, axis=1)[:, None]

    def spread(values: tf.Tensor) -> tf.Tensor:
        """[B,1,C] -> [B,1,W*C]."""
        return tf.tile(values, [1, 1, width])

    @tf.custom_gradient
    def normalize(maps: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple:
        x = rows(maps)
        centered = x - spread(mean(total(x)))
        inverse = tf.math.rsqrt(mean(total(tf.square(centered))) + layer.epsilon)
        y = centered * spread(inverse * scale) + spread(offset[None, None])

        def back(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dy = rows(upstream)
            of_offset, of_scale = total(dy), total(dy * centered)
            pull = mean(of_scale * scale) * inverse**3
            shift = mean(of_offset * scale) * inverse
            dx = dy * spread(inverse * scale) - centered * spread(pull) - spread(shift)
            return (
                tf.cast(tf.reshape(dx, tf.shape(maps)), maps.dtype),
                tf.reduce_sum(of_scale * inverse, axis=[0, 1]),
                tf.reduce_sum(of_offset, axis=[0, 1]),
            )

        return tf.cast(tf.reshape(y, tf.shape(maps)), layer.compute_dtype), back

    return normalize(inputs, tf.convert_to_tensor(layer.gamma), tf.convert_to_tensor(layer.beta))
