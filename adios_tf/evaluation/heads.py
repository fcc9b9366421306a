"""A linear classifier's first weights and its loss, for probes and fine-tuning alike."""

import numpy as np
import tensorflow as tf

from adios_tf.evaluation.defaults import HEADS
from adios_tf.registry import unknown_name

Head = str | tuple[np.ndarray, np.ndarray]


def first_head(head: Head, dim: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel [D,C] and bias [C] that training starts from.

    Args:
      head: "zeros", so that the first logits favor no class; "uniform", PyTorch's default
        U(-1/sqrt(D), 1/sqrt(D)) of both, as in ADIOS; "normal", N(0, 0.01) with a bias of zero,
        as in MixMask; or a kernel and a bias, which are taken as they are.
      dim, classes: D and C.
      seed: of the draws.

    Raises:
      UserError: another name.
    """
    if not isinstance(head, str):
        return head
    rng = np.random.default_rng([seed, dim, classes])
    if head == "zeros":
        return np.zeros((dim, classes)), np.zeros(classes)
    if head == "uniform":
        bound = dim**-0.5
        return rng.uniform(-bound, bound, (dim, classes)), rng.uniform(-bound, bound, classes)
    if head == "normal":
        return rng.normal(0.0, 0.01, (dim, classes)), np.zeros(classes)
    raise unknown_name("first head", head, HEADS)


def classification_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean loss (scalar) of logits [B,C].

    Args:
      labels: [B] int, for cross-entropy; or several labels per image as [B,C] of 0 and 1, for
        binary cross-entropy, averaged over images and classes.
      logits: [B,C].
    """
    if labels.shape.rank == 1:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    else:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits)
    return tf.reduce_mean(losses)
