"""The losses themselves: per-example functions of embeddings, and around them Keras losses.

The functions are what the objectives are made of; they compute in the precision of their
arguments, but never below float32. The classes are for training loops of your own: called as
`loss(y_true, y_pred)` on embeddings [B,D] of any scale, they give one value per image [B], which
`reduction` brings to a scalar, by default the mean. They all take `reduction`, `name` and `dtype`
of `keras.losses.Loss`.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError
from adios_tf.serialization import serializable

__all__ = [
    "CosineDistance",
    "InfoNCE",
    "MixMask",
    "NTXent",
    "NegativeCosine",
    "cosine_distance",
    "info_nce",
    "negative_cosine",
    "normalize",
    "nt_xent_rows",
]


def check_temperature(temperature: float) -> float:
    """Returns the temperature; raises `UserError` unless it is a finite number above 0."""
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature must be above 0, got {temperature}; 0.2 is usual")
    return temperature


def normalize(x: tf.Tensor, floor: float = 1e-12) -> tf.Tensor:
    """Returns the rows of `x` [B,D] divided by max(|row|, `floor`).

    The rows are first brought to the size of their largest entry, so that neither the squares
    nor their gradients leave the range of float32. The floor changes the value, not the
    gradient through the norm (as PyTorch's cosine does); a zero row has a finite gradient.
    """
    if x.dtype in (tf.float16, tf.bfloat16):
        x = tf.cast(x, tf.float32)
    least = tf.constant(floor, x.dtype)
    size = tf.maximum(tf.reduce_max(tf.abs(x), axis=-1, keepdims=True), least)
    size = tf.stop_gradient(size)
    x = x / size
    squared = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    norm = tf.sqrt(tf.maximum(squared, tf.constant(1e-24, x.dtype)))
    return x / (norm + tf.stop_gradient(tf.maximum(norm, least / size) - norm))


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


def negative_cosine(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """-cos of `query` and `key`, [B,D] x [B,D] -> [B]; norms are floored at 1e-8.

    Source: Chen and He (2021), eq. 1. Gradient flows into both: stop it where the method says so.
    """
    return -tf.reduce_sum(normalize(query, 1e-8) * normalize(key, 1e-8), axis=-1)


def cosine_distance(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """2 - 2 cos of `query` and `key`, [B,D] x [B,D] -> [B]: the unit vectors' squared distance.

    Source: Grill et al. (2020), eq. 2.
    """
    return 2 + 2 * negative_cosine(query, key)


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


class _EmbeddingLoss(keras.losses.Loss):
    """A loss of embeddings [B,D]; `dtype` is kept in the config, which Keras leaves out.

    Raises:
      UserError: when called, embeddings that are not two equal shapes [B,D].
    """

    def _per_example(self, target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def call(self, y_true: Any, y_pred: tf.Tensor) -> tf.Tensor:
        target = tf.nest.flatten(y_true)[0]
        if y_pred.shape.rank != 2 or not y_pred.shape.is_compatible_with(target.shape):
            raise UserError(
                f"{type(self).__name__} compares embeddings [B,D] of one shape, "
                f"not {tuple(target.shape)} and {tuple(y_pred.shape)}"
            )
        return self._per_example(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"dtype": self.dtype}


class _Contrastive(_EmbeddingLoss):
    """A loss with a temperature; `UserError` unless that is above 0."""

    def __init__(self, temperature: float = 0.2, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = check_temperature(temperature)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"temperature": self.temperature}


@serializable
class NTXent(_Contrastive):
    """NT-Xent of SimCLR (Chen et al., 2020, eq. 1): which other row shows the same image?

    `loss(first, second)`: embeddings [B,D] of two views of the same images. The value of an image
    is the mean of its two rows; negatives are all other rows of both views, over all replicas.
    Gradient flows into both.

    Args:
      temperature: divides the cosines; 0.5 in SimCLR, 0.2 in ADIOS.

    Raises:
      UserError: a temperature that is not above 0.

    >>> import tensorflow as tf
    >>> z = tf.eye(4)
    >>> round(float(NTXent(temperature=0.1)(z, z)), 4)  # log(1 + 6 e^-10)
    0.0003
    """

    def _per_example(self, target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        there = nt_xent_rows(prediction, target, self.temperature)
        return (there + nt_xent_rows(target, prediction, self.temperature)) / 2


@serializable
class CosineDistance(_EmbeddingLoss):
    """BYOL's 2 - 2 cos (Grill et al., 2020, eq. 2), in [0, 4].

    `loss(target, prediction)`, both [B,D]: the EMA encoder's projection of one view and the
    prediction made from the other. No gradient flows into the target; BYOL sums both directions.

    >>> import tensorflow as tf
    >>> z = tf.constant([[1.0, 0.0], [0.0, 3.0]])
    >>> prediction = tf.constant([[0.0, 2.0], [0.0, 1.0]])
    >>> CosineDistance(reduction=None)(z, prediction).numpy().tolist()
    [2.0, 0.0]
    """

    def _per_example(self, target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return cosine_distance(prediction, tf.stop_gradient(target))


@serializable
class NegativeCosine(_EmbeddingLoss):
    """SimSiam's -cos (Chen and He, 2021, eqs. 1 and 3), in [-1, 1].

    `loss(target, prediction)`, both [B,D]: the projection of one view and the prediction made
    from the other. No gradient flows into the target; SimSiam averages both directions.

    >>> import tensorflow as tf
    >>> float(NegativeCosine()(tf.eye(2), -tf.eye(2)))
    1.0
    """

    def _per_example(self, target: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return negative_cosine(prediction, tf.stop_gradient(target))


@serializable
class InfoNCE(_Contrastive):
    """MoCo's InfoNCE (He et al., 2020, eq. 1): the key among a queue of negatives.

    `loss((key, queue), query)`: key and query [B,D] of the same images, queue [K,D] of other
    images; cosines are taken of all three. No gradient flows into key and queue.

    Args:
      temperature: divides the cosines; 0.07 in MoCo, 0.2 in MoCo v2.

    Raises:
      UserError: a temperature that is not above 0.

    >>> import tensorflow as tf
    >>> z, queue = tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 1.0], [0.0, -1.0]])
    >>> round(float(InfoNCE(temperature=1.0)((z, queue), z)), 4)  # log(1 + 2/e)
    0.5514
    """

    def _per_example(self, target: tuple[tf.Tensor, tf.Tensor], prediction: tf.Tensor) -> tf.Tensor:
        key, queue = map(tf.stop_gradient, target)
        return info_nce(prediction, key, normalize(queue), self.temperature)


@serializable
class MixMask(_EmbeddingLoss):
    """MixMask's loss of mixed images (Vishniakov et al., 2022): scored as both that they show.

    `loss((target, visible, partner), mixed)`, for images of which the part that is hidden is
    filled by another image of the batch: visible_i l(target_i, mixed_i) +
    (1 - visible_i) l(target_partner(i), mixed_i). `mixed` [B,D] are their embeddings, `target`
    what `loss` takes for clean views, `visible` [B] the share of each image that shows, and
    `partner` [B] which image fills image i: a permutation of the batch (over all replicas).
    `adios_tf.masking.Mix` does the same to any objective.

    Args:
      loss: l, another loss of this module.

    Raises:
      UserError: `loss` is none of this module.

    >>> import tensorflow as tf
    >>> z = tf.eye(2)
    >>> loss = MixMask(CosineDistance(), reduction=None)
    >>> loss((z, tf.constant([0.75, 1.0]), tf.constant([1, 0])), z).numpy().tolist()
    [0.5, 0.0]
    """

    def __init__(self, loss: _EmbeddingLoss, **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(loss, _EmbeddingLoss):
            raise UserError(f"MixMask weighs a loss of adios_tf.losses, not {loss!r}")
        self.loss = loss

    def _per_example(self, target: Any, prediction: tf.Tensor) -> tf.Tensor:
        keys, visible, partner = target
        own, *others = keys if isinstance(keys, tuple | list) else (keys,)
        theirs = distribution.permute(own, tf.cast(partner, tf.int32))
        as_own, as_partner = (
            self.loss.call((key, *others) if others else key, prediction) for key in (own, theirs)
        )
        return visible * as_own + (1 - visible) * as_partner

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MixMask":
        return cls(**config | {"loss": keras.saving.deserialize_keras_object(config["loss"])})
