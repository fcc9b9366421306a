"""BYOL (Grill et al., 2020): predict the projection of a slowly moving copy."""

from typing import Any

import keras
import tensorflow as tf

from adios_tf.losses import cosine_distance
from adios_tf.nets import build_predictor, build_projector
from adios_tf.objectives.base import OBJECTIVES, Embedding, MomentumObjective
from adios_tf.serialization import serializable


@OBJECTIVES.register("byol", "predict the projection of a slowly moving copy (EMA)")
@serializable
class BYOL(MomentumObjective):
    """The distance is 2 - 2 cos(prediction, target); both directions are summed.

    Args:
      encoder: images [B,H,W,3] -> features [B,D].
      hidden_dim, output_dim: of the projector; `predictor_dim`: hidden width of the predictor;
        or bring a `projector` [B,D] -> [B,P] and a `predictor` [B,P] -> [B,P].
      ema_base, ema_final, total_steps: see `MomentumObjective`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        hidden_dim: int = 4096,
        output_dim: int = 256,
        predictor_dim: int = 4096,
        projector: keras.Model | None = None,
        predictor: keras.Model | None = None,
        **kwargs: Any,
    ):
        width = encoder.output_shape[-1]
        projector = projector or build_projector("byol", width, hidden_dim, output_dim)
        predictor = predictor or build_predictor("byol", output_dim, predictor_dim, output_dim)
        super().__init__(encoder, projector, predictor, **kwargs)

    def distance(self, query: Embedding, key: Embedding) -> tf.Tensor:
        return cosine_distance(query.query, key.key)
