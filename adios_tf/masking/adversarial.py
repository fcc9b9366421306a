"""ADIOS (Shi et al., ICML 2022): a network learns the masks that make the objective hardest."""

from typing import Any

import keras
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking.base import MASKINGS, Masking, Masks, OneSlot
from adios_tf.masking.penalties import coverage, entropy, sparsity
from adios_tf.registry import check_choice
from adios_tf.serialization import serializable

ENTROPY_KINDS = ("coverage", "softmax", "softmax_joint")


@MASKINGS.register("adversarial", "ADIOS: N learned masks that partition the image, all used")
@serializable
class Adversarial(Masking):
    """N soft masks per image: a softmax over slots of a U-Net's logits.

    The masker pays `sparsity_weight` times the sparsity penalty of every slot and view, and
    earns `entropy_weight` times the entropy of the coverages.

    Args:
      masker: normalized images [B,S,S,3] -> logits [B,S,S,N], N >= 2.
      sparsity_weight: alpha1 of the paper.
      entropy_weight: > 0 favors slots of equal size. The official term alpha2 is
        `-alpha2 * B` here (B the batch), with a softmax kind; see `penalties.entropy`.
      entropy_kind: `coverage`, `softmax` (per view), or `softmax_joint` (one softmax over the
        slots of all views, as the official SimSiam code does it).

    Raises:
      UserError: fewer than two slots, or another `entropy_kind`.
    """

    trains = True

    def __init__(
        self,
        masker: keras.Model,
        sparsity_weight: float = 1.0,
        entropy_weight: float = 0.0,
        entropy_kind: str = "coverage",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if masker.output_shape[-1] < 2:
            raise UserError(
                "--num_masks=1 would hide everything: a softmax over one slot is 1 everywhere; "
                "take at least 2 (the recipes use 4 or 6)"
            )
        check_choice("--entropy_kind", entropy_kind, ENTROPY_KINDS)
        self.masker, self.num_masks = masker, masker.output_shape[-1]
        self.sparsity_weight = sparsity_weight
        self.entropy_weight, self.entropy_kind = entropy_weight, entropy_kind

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        logits = self.masker(images, training=training)
        logits = tf.cast(logits, tf.float64 if logits.dtype == tf.float64 else tf.float32)
        return tf.nn.softmax(logits, axis=-1)

    def penalty(self, masks: Masks) -> tf.Tensor:
        coverages = [coverage(stack) for stack in masks.values()]
        total = self.sparsity_weight * tf.add_n([sparsity(s) for s in coverages])
        if self.entropy_weight:
            if self.entropy_kind == "softmax_joint":
                coverages = [tf.concat(coverages, axis=-1)]
            of = "coverage" if self.entropy_kind == "coverage" else "softmax"
            total -= self.entropy_weight * tf.add_n([entropy(s, of) for s in coverages])
        return total

    def inference_model(self, image_size: int) -> keras.Model:
        images = keras.Input((image_size, image_size, 3))
        masks = keras.layers.Softmax(axis=-1, dtype=keras.config.floatx())(self.masker(images))
        return keras.Model(images, masks, name="masker")


@MASKINGS.register("adversarial_one", "ADIOS-s: N learned masks, one drawn per image and update")
@serializable
class AdversarialOne(OneSlot, Adversarial):
    """ADIOS-s: all N masks pay the penalty, one per image is used."""
