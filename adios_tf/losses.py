"""The distances themselves, per example, as plain functions of embeddings.

All compute in the precision of their arguments, but never below float32.
"""

import math

import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError

_NORM_FLOOR = 1e-12


def check_temperature(temperature: float) -> float:
    """Returns the temperature; raises `UserError` unless it is above 0."""
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, got {temperature}; 0.2 is usual")
    return temperature


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Returns half-precision tensors as float32, others untouched."""
    return tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x


def normalize(x: tf.Tensor, floor: float = _NORM_FLOOR) -> tf.Tensor:
    """Returns rows [B,D] divided by max(|row|, floor).

    The rows are first brought to the size of their largest entry, so that neither the squares
    nor their gradients leave the range of float32. The floor changes the value, not the
    gradient through the norm (as PyTorch's cosine does); a zero row has a finite gradient.
    """
    x = at_least_float32(x)
    floor = tf.constant(floor, x.dtype)
    size = tf.maximum(tf.reduce_max(tf.abs(x), axis=-1, keepdims=True), floor)
    size = tf.stop_gradient(size)
    x = x / size
    squared = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    norm = tf.sqrt(tf.maximum(squared, tf.constant(1e-24, x.dtype)))
    return x / (norm + tf.stop_gradient(tf.maximum(norm, floor / size) - norm))


def nt_xent_rows(query: tf.Tensor, key: tf.Tensor, temperature: float) -> tf.Tensor:
    """One direction of NT-Xent (Chen et al., 2020, eq. 1; ADIOS code): query i against key i.

    Negatives are all other keys and all other queries, over all replicas.

    Args:
      query, key: [B,D], any scale.
      temperature: divides the cosines.

    Returns:
      Cross-entropy per query row, [B].
    """
    query, key = normalize(query), normalize(key)
    queries, keys = distribution.gather(query), distribution.gather(key)
    rows = tf.shape(query)[0]
    place = distribution.start_row(rows) + tf.range(rows)
    to_keys = tf.matmul(query, keys, transpose_b=True) / temperature
    to_queries = tf.matmul(query, queries, transpose_b=True) / temperature
    itself = tf.one_hot(place, tf.shape(queries)[0], on_value=True, off_value=False, dtype=tf.bool)
    to_queries = tf.where(itself, query.dtype.min, to_queries)
    logits = tf.concat([to_keys, to_queries], axis=1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(place, logits)


def nt_xent(first: tf.Tensor, second: tf.Tensor, temperature: float = 0.1) -> tf.Tensor:
    """NT-Xent of two views (Chen et al., 2020): the mean over all 2B rows.

    Args:
      first, second: embeddings [B,D] of the two views of the same images, any scale.
      temperature: divides the cosines; above 0.

    Returns:
      A scalar.

    >>> import tensorflow as tf
    >>> z = tf.eye(4)
    >>> round(float(nt_xent(z, z, temperature=0.1)), 4)   # log(1 + 6 e^-10)
    0.0003
    """
    rows = nt_xent_rows(first, second, temperature) + nt_xent_rows(second, first, temperature)
    return tf.reduce_mean(rows) / 2


def negative_cosine(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Minus the cosine of each row pair, [B,D] x [B,D] -> [B]; norms are floored at 1e-8.

    Gradient flows into both: stop it where the method says so.
    """
    return -tf.reduce_sum(normalize(query, 1e-8) * normalize(key, 1e-8), axis=-1)


def info_nce(query: tf.Tensor, key: tf.Tensor, queue: tf.Tensor, temperature: float) -> tf.Tensor:
    """InfoNCE against a queue of negatives (He et al., 2020, eq. 1; Chen et al., 2020b).

    Args:
      query, key: [B,D], any scale.
      queue: [K,D] unit rows, the negatives.
      temperature: divides the cosines.

    Returns:
      Cross-entropy per query row, [B].
    """
    query, key = normalize(query), normalize(key)
    positive = tf.reduce_sum(query * key, axis=-1, keepdims=True)
    negative = tf.matmul(query, tf.cast(queue, query.dtype), transpose_b=True)
    logits = tf.concat([positive, negative], axis=1) / temperature
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.zeros(tf.shape(query)[0], tf.int32), logits
    )


def cosine_ramp(step: tf.Tensor, total_steps: int, base: float, final: float) -> tf.Tensor:
    """EMA momentum of BYOL at `step` (Grill et al., 2020): cosine from `base` to `final`."""
    progress = tf.minimum(tf.cast(step, tf.float64) / float(total_steps), 1.0)
    return final - (final - base) * (tf.cos(math.pi * progress) + 1.0) / 2.0
