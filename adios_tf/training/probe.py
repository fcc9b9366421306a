"""An online linear classifier: what labels can be read from the features while they form."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from adios_tf.objectives import View
from adios_tf.serialization import Configured, serializable


@serializable
class Probe(Configured, keras.layers.Layer):
    """A linear layer on features without gradient, so it never reaches the encoder.

    Args:
      feature_dim: D.
      num_classes: number of labels; a label of -1 means none and is ignored.
      views: which of the clean views 1 and 2 it reads. A view that the objective encodes
        anyway costs nothing; another one is encoded for it, without gradient.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, views: Sequence[int] | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.views = tuple(map(View, views)) if views else None
        self.classifier = keras.layers.Dense(num_classes, dtype=keras.config.floatx())
        self.classifier.build((None, feature_dim))
        self.built = True

    def call(self, features: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns cross-entropy and accuracy over the labeled rows, two scalars.

        The gradient stops at features [B,D]. Labels are [B] int, -1 = none; or several per image,
        [B,C] of 0 and 1, and then every class is a binary question of its own.
        """
        logits = self.classifier(tf.stop_gradient(features))
        if labels.shape.rank == 2:
            wanted = tf.cast(labels, logits.dtype)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)
            right = tf.cast(tf.equal(logits > 0, wanted > 0), logits.dtype)
            return tf.reduce_mean(losses), tf.reduce_mean(right)
        known = tf.cast(labels >= 0, logits.dtype)
        count = tf.maximum(tf.reduce_sum(known), 1.0)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
        right = tf.cast(tf.equal(tf.argmax(logits, -1), tf.cast(labels, tf.int64)), logits.dtype)
        return tf.reduce_sum(losses * known) / count, tf.reduce_sum(right * known) / count

    def inference_model(self) -> keras.Model:
        """A model that maps features [B,D] to logits [B,C], to be saved."""
        features = keras.Input((self.classifier.kernel.shape[0],))
        return keras.Model(features, self.classifier(features), name="classifier")
