"""What every objective is: a distance for a directed pair of views, and what it must remember.

A *view* is one of the two augmented copies of a batch, or the same with something hidden. A *pair*
names the view whose embedding is trained (`query`) and the view it is compared with (`key`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from adios_tf.registry import Registry
from adios_tf.schedules import cosine_ramp
from adios_tf.serialization import Configured

OBJECTIVES = Registry("objective")


class View(NamedTuple):
    """One view of a batch.

    Attributes:
      index: 1 or 2, which of the two augmented copies.
      occluded: whether something is hidden in it.
      as_partner: whether its embeddings are in the order of the images that fill its holes
        (MixMask).
    """

    index: int
    occluded: bool = False
    as_partner: bool = False

    @property
    def images(self) -> str:
        """The name of its clean images in a batch."""
        return f"view{self.index}"


CLEAN1, CLEAN2 = View(1), View(2)


class Pair(NamedTuple):
    """A directed pair of views; `weight` is a number or a tensor [B]."""

    query: View
    key: View
    weight: Any = 1.0


class Embedding(NamedTuple):
    """What an objective knows of one view; a part that no pair needs is None.

    Attributes:
      features: [B,D] of the online encoder.
      query: [B,P], what is trained.
      key: [B,P], what others are compared with.
    """

    features: tf.Tensor | None = None
    query: tf.Tensor | None = None
    key: tf.Tensor | None = None


def copy_of(model: keras.Model) -> keras.Model:
    """Returns a model of the same architecture and weights."""
    copy = keras.models.clone_model(model)
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    return copy


class Objective(Configured, keras.layers.Layer):
    """Base class. A subclass says how a view is embedded and how one pair is scored.

    Args:
      encoder: images [B,H,W,3] -> features [B,D].
      projector: features -> projections [B,P].
      predictor: projections -> predictions [B,P], where the method has one.

    Attributes:
      masked_views: which of the views 1 and 2 get an occluded copy by default.
      direction_weight: what each of the two directions of a pair of views counts.
    """

    masked_views: tuple[int, ...] = (2,)
    direction_weight: float = 1.0

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        predictor: keras.Model | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.encoder, self.projector, self.predictor = encoder, projector, predictor

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Raises `UserError` where a run's `PretrainConfig` contradicts this objective."""

    def trained_variables(self) -> list[keras.Variable]:
        """The variables that descend: encoder and projector (EMA copies are not among them)."""
        return self.encoder.trainable_variables + self.projector.trainable_variables

    def predictor_variables(self) -> list[keras.Variable]:
        """The predictor's variables, apart because SimSiam gives them a rate of their own."""
        return self.predictor.trainable_variables if self.predictor is not None else []

    def embed(self, images: tf.Tensor, query: bool, key: bool, training: bool = True) -> Embedding:
        """Encodes one view, [B,H,W,3] -> Embedding, with the parts that are asked for."""
        raise NotImplementedError

    def distance(self, query: Embedding, key: Embedding) -> tf.Tensor:
        """The distance of a directed pair, per example [B], smaller = more alike."""
        raise NotImplementedError

    def symmetric(self, first: View, second: View) -> tuple[Pair, ...]:
        """The method's own loss between two views, as pairs."""
        weight = self.direction_weight
        return (Pair(first, second, weight), Pair(second, first, weight))

    def occluded_pairs(self, masked_views: Sequence[int]) -> tuple[Pair, ...]:
        """The pairs of one mask slot: each occluded view with the other clean one."""
        ends = [(View(index, occluded=True), View(3 - index)) for index in masked_views]
        pairs = [pair for end in ends for pair in self.symmetric(*end)]
        return tuple(p._replace(weight=p.weight / len(masked_views)) for p in pairs)

    def loss(self, views: Mapping[View, Embedding], pairs: Sequence[Pair]) -> tf.Tensor:
        """The weighted sum of the pairs' distances, averaged over this replica's batch."""
        terms = []
        for pair in pairs:
            distance = self.distance(views[pair.query], views[pair.key])
            weight = keras.ops.convert_to_tensor(pair.weight, distance.dtype)
            terms.append(tf.reduce_mean(weight * distance))
        return tf.add_n(terms) if terms else tf.zeros((), keras.config.floatx())

    def after_step(self, clean: Mapping[View, Embedding], step: tf.Tensor) -> None:
        """What must be remembered once both updates are done (EMA copies, queues)."""


class MomentumObjective(Objective):
    """An objective whose keys come from an exponential moving average of encoder and projector.

    Args:
      encoder, projector, predictor: see `Objective`.
      ema_base, ema_final: momentum at the first and the last step, cosine in between.
      total_steps: length of training in updates; None keeps the momentum at `ema_base`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        predictor: keras.Model | None = None,
        ema_base: float = 0.99,
        ema_final: float = 1.0,
        total_steps: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(encoder, projector, predictor, **kwargs)
        self.ema_base, self.ema_final, self.total_steps = ema_base, ema_final, total_steps
        self.target_encoder, self.target_projector = copy_of(encoder), copy_of(projector)

    def embed(self, images: tf.Tensor, query: bool, key: bool, training: bool = True) -> Embedding:
        features = projection = None
        if query:
            features = self.encoder(images, training=training)
            projection = self.projector(features, training=training)
            if self.predictor is not None:
                projection = self.predictor(projection, training=training)
        return Embedding(features, projection, self.target(images, training) if key else None)

    def target(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Projections of the moving average, without gradient.

        Run in training mode as in the official code: batch statistics, not running averages.
        """
        features = self.target_encoder(images, training=training)
        return tf.stop_gradient(self.target_projector(features, training=training))

    def after_step(self, clean: Mapping[View, Embedding], step: tf.Tensor) -> None:
        """Moves the targets: after every step, the first included."""
        momentum = tf.constant(self.ema_base, tf.float64)
        if self.total_steps is not None:
            momentum = cosine_ramp(step, self.total_steps, self.ema_base, self.ema_final)
        copies = self.target_encoder, self.target_projector
        targets = [variable for copy in copies for variable in copy.trainable_variables]
        for slow, fast in zip(targets, self.trained_variables(), strict=True):
            keep = tf.cast(momentum, slow.dtype)
            slow.assign(keep * slow + (1 - keep) * fast)
