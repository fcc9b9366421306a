"""SimCLR (Chen et al., 2020): NT-Xent over the global batch."""

from typing import Any

import keras
import tensorflow as tf

from adios_tf.losses import check_temperature, nt_xent_rows
from adios_tf.nets import build_projector
from adios_tf.objectives.base import OBJECTIVES, Embedding, Objective
from adios_tf.serialization import serializable


@OBJECTIVES.register("simclr", "contrast with all other images of the batch (NT-Xent)")
@serializable
class SimCLR(Objective):
    """Projections are query and key at once; gradient flows through both.

    Half of each direction: NT-Xent is the mean over the rows of both.

    Args:
      encoder: images [B,H,W,3] -> features [B,D].
      temperature: of NT-Xent (0.2 in the ADIOS recipes).
      hidden_dim, output_dim: of the projector; or bring a `projector` [B,D] -> [B,P].

    Raises:
      UserError: a temperature that is not above 0.
    """

    direction_weight = 0.5

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.2,
        hidden_dim: int = 2048,
        output_dim: int = 128,
        projector: keras.Model | None = None,
        **kwargs: Any,
    ):
        width = encoder.output_shape[-1]
        projector = projector or build_projector("simclr", width, hidden_dim, output_dim)
        super().__init__(encoder, projector, **kwargs)
        self.temperature = check_temperature(temperature)

    def embed(self, images: tf.Tensor, query: bool, key: bool, training: bool = True) -> Embedding:
        features = self.encoder(images, training=training)
        projection = self.projector(features, training=training)
        return Embedding(features, projection, projection)

    def distance(self, query: Embedding, key: Embedding) -> tf.Tensor:
        return nt_xent_rows(query.query, key.key, self.temperature)
