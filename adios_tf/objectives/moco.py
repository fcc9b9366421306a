"""MoCo v2 (He et al., 2020; Chen et al., 2020b): contrast with a queue of earlier keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError
from adios_tf.losses import check_temperature, info_nce, normalize
from adios_tf.nets import build_projector
from adios_tf.objectives.base import OBJECTIVES, Embedding, MomentumObjective, Pair, View
from adios_tf.serialization import serializable


def _unit_rows(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    return normalize(keras.initializers.RandomNormal(stddev=1.0)(shape, dtype))


def check_queue(places: int, keys: int) -> None:
    """Raises `UserError` where a queue has fewer places than one step has keys."""
    if places < keys:
        raise UserError(
            f"--queue_size={places} is smaller than the {keys} keys of one step: "
            "take at least as many, or a smaller batch"
        )


@OBJECTIVES.register("moco", "contrast with a queue of earlier keys of an EMA encoder (MoCo v2)")
@serializable
class MoCo(MomentumObjective):
    """InfoNCE of a query of the second view against its key, of the first, and the queue.

    The EMA encoder moves at a constant momentum, at the end of a step where the official code moves
    it at the start of the next: the keys are the same. An occluded view is always the query and
    never a key (papers: MixMask, official code).

    Args:
      encoder: images [B,H,W,3] -> features [B,D].
      temperature: of InfoNCE (0.2 in MoCo v2, 0.1 on CIFAR).
      queue_size: K, the negatives that are kept; at least the keys of one step.
      symmetric: both views are query once, and the two losses are summed; an occluded view is
        then compared with the keys of both views (Un-Mix, official code for CIFAR), and the
        queue takes both.
      hidden_dim, output_dim: of the projector; or bring a `projector` [B,D] -> [B,P].
      ema_base: momentum of the EMA encoder (0.999; 0.99 on CIFAR).

    Raises:
      UserError: a temperature that is not above 0.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.2,
        queue_size: int = 65536,
        symmetric: bool = False,
        hidden_dim: int = 2048,
        output_dim: int = 128,
        ema_base: float = 0.999,
        projector: keras.Model | None = None,
    ):
        width = encoder.output_shape[-1]
        projector = projector or build_projector("moco", width, hidden_dim, output_dim)
        super().__init__(encoder, projector, ema_base=ema_base)
        self.temperature = check_temperature(temperature)
        self.both_directions = symmetric
        shared = {"trainable": False, "aggregation": "only_first_replica"}
        self.queue = self.add_weight(
            (queue_size, projector.output_shape[-1]), _unit_rows, name="queue", **shared
        )
        self.queue_place = self.add_weight((), "zeros", dtype="int32", name="queue_place", **shared)

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Raises `UserError` where the queue has fewer places than a step has keys."""
        check_queue(settings.queue_size, settings.batch_size * (2 if settings.symmetric else 1))

    def distance(self, query: Embedding, key: Embedding) -> tf.Tensor:
        return info_nce(query.query, key.key, self.queue, self.temperature)

    def symmetric(self, first: View, second: View) -> tuple[Pair, ...]:
        """One direction, or the sum of both."""
        one = (Pair(first, second),)
        return (*one, Pair(second, first)) if self.both_directions else one

    def occluded_pairs(self, masked_views: Sequence[int]) -> tuple[Pair, ...]:
        pairs = []
        for index in masked_views:
            hidden, own, other = View(index, occluded=True), View(index), View(3 - index)
            keys = (other, own) if self.both_directions else (other,)
            pairs += [Pair(hidden, key, 1 / len(masked_views)) for key in keys]
        return tuple(pairs)

    def after_step(self, clean: Mapping[View, Embedding], step: tf.Tensor) -> None:
        """Moves the EMA encoder, then puts this step's clean keys in the place of the oldest.

        `UserError` where the step has more keys than the queue has places.
        """
        super().after_step(clean, step)
        keys = [clean[view].key for view in sorted(clean) if clean[view].key is not None]
        keys = tf.concat([distribution.gather(normalize(key)) for key in keys], axis=0)
        places, number = self.queue.shape[0], keys.shape[0]
        if number is not None:
            check_queue(places, number)
        rows = (self.queue_place + tf.range(tf.shape(keys)[0])) % places
        keys = tf.cast(keys, self.queue.dtype)
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, rows[:, None], keys))
        self.queue_place.assign((self.queue_place + tf.shape(keys)[0]) % places)
