"""What every masking policy is: it says which pixels of a view are hidden (1 = hidden)."""

import keras
import tensorflow as tf

from adios_tf import distribution
from adios_tf.registry import Registry
from adios_tf.serialization import Configured, serializable

MASKINGS = Registry("masking")

Masks = dict[int, tf.Tensor]  # by the index of the view, 1 or 2


class Masking(Configured, keras.layers.Layer):
    """Base class. A subclass draws or learns N masks per image.

    Attributes:
      masker: the network that is trained against the encoder, or None.
      num_masks: N, the number of slots.
      clean_weight: weight of the objective between the two clean views, by default.
      slot_reduction: how the distances of the slots add up by default, `sum` or `mean`.
      trains: whether the policy is built around a `masker` that learns.
      masker_inputs: channels that the masker reads.
      masked_views: which of the views 1 and 2 get an occluded copy by default; None = the
        objective's choice.
      fills: names of the fills that make sense with it; None = all.
    """

    masker: keras.Model | None = None
    num_masks: int = 1
    clean_weight: float = 0.0
    slot_reduction: str = "sum"
    trains: bool = False
    masker_inputs: int = 3
    masked_views: tuple[int, ...] | None = None
    fills: tuple[str, ...] | None = None

    @property
    def num_copies(self) -> int:
        """Occluded copies of a view that one update makes."""
        return self.num_masks

    @staticmethod
    def masker_outputs(num_masks: int) -> int:
        """Channels of logits that the masker gives for N masks."""
        return num_masks

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        """Returns the masks of one view.

        Args:
          images: normalized, [B,H,W,3].
          truth: instance labels [B,H,W], 0 = background, where the data has them.
          seed: int32 [2], a pure function of (run seed, step, view).
          training: whether the masker trains.

        Returns:
          [B,H,W,N] in [0,1]. N is `num_masks`, or 3 where one mask has a sheet per color.
        """
        raise NotImplementedError

    def slots(self, masks: Masks, seed: tf.Tensor) -> list[Masks]:
        """Returns the masks that one update uses: a list of {view: [B,H,W] or [B,H,W,3]}.

        By default every slot, one after another. `seed` (int32 [2]) differs between the
        encoder's and the masker's update.
        """
        per_view = {view: tf.unstack(stack, axis=-1) for view, stack in masks.items()}
        number = len(next(iter(per_view.values()), ()))
        return [{view: slots[n] for view, slots in per_view.items()} for n in range(number)]

    def penalty(self, masks: Masks) -> tf.Tensor:
        """What the masker pays for these masks (a scalar that it descends)."""
        return tf.zeros((), keras.config.floatx())

    def trained_variables(self) -> list[keras.Variable]:
        """The masker's variables; empty where nothing is trained."""
        return self.masker.trainable_variables if self.masker is not None else []

    def inference_model(self, image_size: int) -> keras.Model | None:
        """A model that maps normalized images [B,S,S,3] to masks [B,S,S,N], to be saved."""
        return None


class OneSlot(Masking):
    """Mixed into a masking of N slots, as in ADIOS-s: one per image, drawn anew for each update.

    All N slots pay the penalty; both views of an image use the same slot.
    """

    @property
    def num_copies(self) -> int:
        """One occluded copy of a view, that of the slot drawn."""
        return 1

    def draw_slots(self, rows: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns a slot per image of this replica, int32 [rows], uniform over N."""

        def sample(total: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_uniform([total], seed, 0, self.num_masks, tf.int32)

        return distribution.draw(sample, rows)

    def slots(self, masks: Masks, seed: tf.Tensor) -> list[Masks]:
        first = next(iter(masks.values()))
        slot = self.draw_slots(tf.shape(first)[0], seed)
        chosen = tf.one_hot(slot, self.num_masks, dtype=first.dtype)[:, None, None, :]
        return [{view: tf.reduce_sum(stack * chosen, -1) for view, stack in masks.items()}]


@MASKINGS.register("none", "nothing is hidden: the plain objective between two views")
@serializable
class NoMasking(Masking):
    """No occluded views at all."""

    num_masks = 0
    clean_weight = 1.0
