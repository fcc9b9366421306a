"""What keeps the adversary from hiding everything or nothing.

All take *coverages* s [B,N]: the share of the image that each slot hides, in [0,1].
"""

import math

import tensorflow as tf

SPARSITY_EDGE = 1e-3


def coverage(masks: tf.Tensor) -> tf.Tensor:
    """Returns what `masks` [B,H,W,N] hide of each image, a share [B,N], at least float32."""
    if masks.dtype in (tf.float16, tf.bfloat16):
        masks = tf.cast(masks, tf.float32)
    return tf.reduce_mean(masks, axis=(1, 2))


def sparsity(coverages: tf.Tensor, edge: float = SPARSITY_EDGE) -> tf.Tensor:
    """Sparsity penalty of ADIOS (Shi et al., 2022): sum over n of the mean over b of 1/sin(pi s).

    Smallest at half coverage, growing towards none and all. The official expression divides by
    sin(pi s) + 1e-10, which in float32 turns into a reward of 1e7 at s = 1. Ours continues along
    the tangent closer than `edge` to either end: finite, positive, monotone, and with a gradient
    that still leads away from the end.

    Args:
      coverages: [B,N] in [0,1].
      edge: where the tangent takes over.

    Returns:
      A scalar, at least N.
    """
    distance = tf.minimum(coverages, 1.0 - coverages)
    inside = 1.0 / (tf.sin(math.pi * tf.maximum(distance, edge)) + 1e-10)  # as the official code
    slope = -math.pi * math.cos(math.pi * edge) / math.sin(math.pi * edge) ** 2
    beyond = slope * tf.minimum(distance - edge, 0.0)
    return tf.reduce_sum(tf.reduce_mean(inside + beyond, axis=0))


def entropy(coverages: tf.Tensor, of: str = "coverage") -> tf.Tensor:
    """Entropy of how the slots share the image, averaged over the batch.

    Args:
      coverages: [B,N] in [0,1].
      of: `coverage`: of the coverages, which sum to one under a softmax over slots;
        `softmax`: of softmax(coverages), as in the official ADIOS code, whose term is
        -B times this value (a negative entropy, summed over the batch).

    Returns:
      A scalar in [0, log N]; larger = more even slots.
    """
    if of == "softmax":
        logs = tf.nn.log_softmax(coverages, axis=-1)
        shares = tf.exp(logs)
    else:
        shares = coverages
        logs = tf.math.log(tf.maximum(shares, 1e-12))
    return -tf.reduce_mean(tf.reduce_sum(shares * logs, axis=-1))
