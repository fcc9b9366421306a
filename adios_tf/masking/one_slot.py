"""One of the N masks per image and update, as in ADIOS-s."""

import tensorflow as tf

from adios_tf import distribution
from adios_tf.masking.base import Masking, Masks


class OneSlot(Masking):
    """Mixed into a masking of N slots: one per image, drawn anew for each of the two updates.

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
        one_hot = {
            view: tf.one_hot(slot, self.num_masks, dtype=stack.dtype)[:, None, None, :]
            for view, stack in masks.items()
        }
        return [{view: tf.reduce_sum(stack * one_hot[view], -1) for view, stack in masks.items()}]
