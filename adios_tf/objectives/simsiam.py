"""SimSiam (Chen and He, 2021): predict the other view's projection, gradient stopped there."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from adios_tf.losses import negative_cosine
from adios_tf.nets import build_predictor, build_projector
from adios_tf.objectives.base import CLEAN1, CLEAN2, OBJECTIVES, Embedding, Objective, Pair, View
from adios_tf.serialization import serializable


@OBJECTIVES.register("simsiam", "predict the other view's projection, stop-gradient, no copy")
@serializable
class SimSiam(Objective):
    """The distance is -cos(prediction, sg(projection)), averaged over the chosen terms.

    ADIOS on SimSiam masks both views; its three switches (papers' sheet a.3) add terms to the
    two that are always there.

    Args:
      encoder: images [B,H,W,3] -> features [B,D].
      symmetric_mask: also predict the occluded views from the clean ones.
      no_mask: also the clean views from each other.
      both_mask: also the occluded views from each other.
      hidden_dim, output_dim: of the projector; `predictor_dim`: hidden width of the predictor;
        or bring a `projector` [B,D] -> [B,P] and a `predictor` [B,P] -> [B,P].
    """

    masked_views = (1, 2)
    direction_weight = 0.5

    def __init__(
        self,
        encoder: keras.Model,
        symmetric_mask: bool = True,
        no_mask: bool = True,
        both_mask: bool = True,
        hidden_dim: int = 2048,
        output_dim: int = 2048,
        predictor_dim: int = 512,
        projector: keras.Model | None = None,
        predictor: keras.Model | None = None,
        **kwargs: Any,
    ):
        width = encoder.output_shape[-1]
        projector = projector or build_projector("simsiam", width, hidden_dim, output_dim)
        predictor = predictor or build_predictor("simsiam", output_dim, predictor_dim, output_dim)
        super().__init__(encoder, projector, predictor, **kwargs)
        self.symmetric_mask, self.no_mask, self.both_mask = symmetric_mask, no_mask, both_mask

    def embed(self, images: tf.Tensor, query: bool, key: bool, training: bool = True) -> Embedding:
        features = self.encoder(images, training=training)
        projection = self.projector(features, training=training)
        prediction = self.predictor(projection, training=training) if query else None
        return Embedding(features, prediction, tf.stop_gradient(projection))

    def distance(self, query: Embedding, key: Embedding) -> tf.Tensor:
        return negative_cosine(query.query, key.key)

    def occluded_pairs(self, masked_views: Sequence[int]) -> tuple[Pair, ...]:
        pairs = []
        for index in masked_views:
            hidden, other = View(index, occluded=True), View(3 - index)
            pairs.append((hidden, other))
            if self.symmetric_mask:
                pairs.append((other, hidden))
        if self.no_mask:
            pairs += [(CLEAN1, CLEAN2), (CLEAN2, CLEAN1)]
        if self.both_mask and len(masked_views) == 2:
            pairs += [(View(1, True), View(2, True)), (View(2, True), View(1, True))]
        return tuple(Pair(query, key, 1 / len(pairs)) for query, key in pairs)
