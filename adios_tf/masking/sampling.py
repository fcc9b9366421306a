"""Random numbers of a masking: functions of the seed alone, however many replicas share a batch."""

from collections.abc import Callable

import tensorflow as tf

from adios_tf import distribution

Draw = Callable[[tf.Tensor, int], tf.Tensor]


def per_image(rows: tf.Tensor) -> Draw:
    """Returns `draw(seed, width)`: uniform numbers in [0,1), [rows, width], one row per image.

    Args:
      rows: images of this replica.
    """

    def draw(seed: tf.Tensor, width: int) -> tf.Tensor:
        def sample(total: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_uniform([total, width], seed)

        return distribution.draw(sample, rows)

    return draw


def per_batch(seed: tf.Tensor, width: int) -> tf.Tensor:
    """As `per_image`, but one row for all images of all replicas, [1, width]."""
    return tf.random.stateless_uniform([1, width], seed)


def fold(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """Returns another seed, int32 [2], for the `number`-th use of one."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def permutation(rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns a random order of the global batch, int32 [R*rows]."""
    # An argsort rather than a shuffle, which XLA cannot compile.
    return tf.argsort(tf.random.stateless_uniform([rows * distribution.count()], seed))


def bisect(
    below: Callable[[tf.Tensor], tf.Tensor], low: tf.Tensor, high: tf.Tensor, halvings: int
) -> tf.Tensor:
    """Returns where `below`, true up to some value between low and high, ceases to be."""

    def halve(step: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, ...]:
        middle = (low + high) / 2
        short = below(middle)
        return step + 1, tf.where(short, middle, low), tf.where(short, high, middle)

    start = tf.constant(0), low, high
    _, low, high = tf.while_loop(lambda step, *_: step < halvings, halve, start)
    return (low + high) / 2
