"""The distance over all mask slots, and its gradients for the encoder and for the masks.

The clean views are encoded once per update, not once per mask: each slot is differentiated down
to the clean embeddings, their gradients are summed over the slots, and only the sum is carried
back through the encoder. The result is the gradient of the whole sum, at N+1 encoder passes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking import Fill
from adios_tf.masking.base import Masks
from adios_tf.objectives import CLEAN1, CLEAN2, Embedding, Objective, Pair, View
from adios_tf.training.probe import Probe


class Result(NamedTuple):
    """What one pass over all slots yields.

    Attributes:
      distance: the objective over all slots and clean pairs, averaged over this replica's batch.
      encoder: scaled gradients of encoder, projector, predictor and probe; [] if not asked for.
      slots: per slot {index of the view: scaled gradient [B,S,S]}; [] if not asked for.
      clean: embeddings of the clean views.
      probe: `probe_loss` and `probe_accuracy`, {} without a probe.
      scale: what the gradients are multiplied by.
    """

    distance: tf.Tensor
    encoder: list[tf.Tensor]
    slots: list[Masks]
    clean: dict[View, Embedding]
    probe: dict[str, tf.Tensor]
    scale: tf.Tensor


def _tensors(views: Mapping[View, Embedding]) -> list[tf.Tensor]:
    """The distinct tensors that pairs read (SimCLR's query and key are one and the same)."""
    found = [part for view in views.values() for part in view[1:] if part is not None]
    return list({id(part): part for part in found}.values())


def _plus(total: list[tf.Tensor | None], more: Sequence[tf.Tensor | None]) -> list:
    return [a if b is None else b if a is None else a + b for a, b in zip(total, more, strict=True)]


def without_clean(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Returns a slot's pairs less those of two clean views, at the same total weight.

    Where the clean views have a term of their own, SimSiam's switch for them would count them
    once more in every slot.
    """
    kept = [p for p in pairs if p.query.occluded or p.key.occluded]
    share = sum(p.weight for p in kept) / sum(p.weight for p in pairs)
    return tuple(p._replace(weight=p.weight / share) for p in kept)


class Differentiator:
    """See the module. The arguments are those of `Pretrainer`."""

    def __init__(
        self,
        objective: Objective,
        fill: Fill,
        masked_views: Sequence[int],
        clean_weight: float,
        slot_reduction: str,
        occluded_keys: bool,
        probe: Probe | None,
        lean_memory: bool,
    ):
        if slot_reduction not in ("sum", "mean"):
            raise UserError(f"slot_reduction must be sum or mean, got {slot_reduction!r}")
        self.objective, self.fill, self.probe = objective, fill, probe
        self.masked_views, self.clean_weight = masked_views, clean_weight
        self.slot_reduction, self.lean_memory = slot_reduction, lean_memory
        self.clean_pairs = objective.symmetric(CLEAN2, CLEAN1) if clean_weight else ()
        self.occluded_pairs = objective.occluded_pairs(masked_views) if masked_views else ()
        if clean_weight and masked_views:
            self.occluded_pairs = without_clean(self.occluded_pairs)
        if not occluded_keys:
            kept = [p for p in self.occluded_pairs if not p.key.occluded]
            self.occluded_pairs = tuple(kept)
        pairs = (*self.clean_pairs, *self.occluded_pairs)
        self._queries = {pair.query for pair in pairs}
        self._keys = {pair.key for pair in pairs}
        self._clean = sorted(v for v in self._queries | self._keys if not v.occluded)
        # Evaluation sees clean images, so BatchNorm's running averages follow the clean views;
        # the occluded ones only where the online encoder never sees a clean view (MoCo + ADIOS).
        self._moving_occluded = all(view.occluded for view in self._queries)

    def trained_variables(self) -> list[keras.Variable]:
        """The encoder side's variables, in the order of the gradients."""
        probe = self.probe.trainable_variables if self.probe is not None else []
        body = self.objective.trained_variables() + self.objective.predictor_variables()
        return body + probe

    def __call__(
        self,
        batch: Mapping[str, tf.Tensor],
        slots: Sequence[Masks],
        seed: tf.Tensor,
        scale: tf.Tensor,
        encoder: bool,
        masks: bool,
    ) -> Result:
        """Differentiates the distance.

        Args:
          batch: `view1`, `view2` [B,S,S,3] and, for a probe, `label` [B].
          slots: per slot {index of the view: mask [B,S,S]}, 1 = hidden.
          seed: int32 [2], for fills that draw.
          scale: multiplies the gradients, not the distance.
          encoder: whether gradients of the encoder side are wanted; if so, the running
            averages of BatchNorm move, and otherwise not.
          masks: whether gradients of the masks are wanted.
        """
        scale = tf.convert_to_tensor(scale)
        variables = self.trained_variables() if encoder else []
        with tf.GradientTape(watch_accessed_variables=encoder) as clean_tape:
            images = {view: batch[view.images] for view in self._clean}
            clean = self._embed(images, moving=encoder)
            clean_distance = self.clean_weight * self.objective.loss(clean, self.clean_pairs)
            clean_loss = clean_distance + self._regularization()
            probe = self._probe(batch, clean) if encoder and self.probe is not None else {}
            clean_loss = tf.cast(scale, clean_loss.dtype) * (
                clean_loss + probe.get("probe_loss", 0.0)
            )

        boundary = _tensors(clean)
        distance, of_slots, before = clean_distance, [], []
        of_encoder: list = [None] * len(variables)
        of_boundary: list = [None] * len(boundary)
        for n, slot in enumerate(slots):
            # Waiting for the slot before frees its activations before ours are computed.
            with tf.control_dependencies(before if self.lean_memory else []):
                with tf.GradientTape(watch_accessed_variables=encoder) as tape:
                    tape.watch(boundary if encoder else [])
                    tape.watch(list(slot.values()) if masks else [])
                    slot_distance = self._slot_distance(
                        batch,
                        clean,
                        n,
                        slot,
                        tf.random.experimental.stateless_fold_in(seed, n),
                        encoder,
                    )
                    if self.slot_reduction == "mean":
                        slot_distance /= len(slots)
                    loss = tf.cast(scale, slot_distance.dtype) * slot_distance
                wanted_masks = slot if masks else {}
                more, more_boundary, more_masks = tape.gradient(
                    loss, [variables, boundary if encoder else [], wanted_masks]
                )
            distance += slot_distance
            of_encoder = _plus(of_encoder, more)
            if encoder:
                of_boundary = _plus(of_boundary, more_boundary)
            if masks:
                of_slots.append(more_masks)
            before = [g for g in tf.nest.flatten([more, more_masks]) if g is not None]

        if encoder:
            reached = [(t, g) for t, g in zip(boundary, of_boundary, strict=True) if g is not None]
            through_clean = clean_tape.gradient(
                [clean_loss, *(tensor for tensor, _ in reached)],
                variables,
                [tf.ones_like(clean_loss), *(gradient for _, gradient in reached)],
            )
            # Not left to the tape: it fails where no target reaches any variable (MoCo's queries
            # all occluded).
            of_encoder = [
                tf.zeros_like(variable) if gradient is None else gradient
                for variable, gradient in zip(
                    variables, _plus(through_clean, of_encoder), strict=True
                )
            ]
        return Result(distance, of_encoder, of_slots, clean, probe, scale)

    def _embed(self, images: Mapping[View, tf.Tensor], moving: bool) -> dict[View, Embedding]:
        embeddings = {}
        for view, batch in images.items():
            roles = view in self._queries, view in self._keys
            if moving and view.occluded == self._moving_occluded:
                embeddings[view] = self.objective.embed(batch, *roles)
            else:
                with keras.StatelessScope():  # updates of running averages are dropped
                    embeddings[view] = self.objective.embed(batch, *roles)
        return embeddings

    def _slot_distance(
        self,
        batch: Mapping[str, tf.Tensor],
        clean: Mapping[View, Embedding],
        n: int,
        slot: Masks,
        seed: tf.Tensor,
        moving: bool,
    ) -> tf.Tensor:
        """The objective with what one slot hides covered."""
        filled = {
            index: self.fill.cover(batch[f"view{index}"], slot[index], seed, n)
            for index in self.masked_views
        }
        images = {View(index, occluded=True): cover.images for index, cover in filled.items()}
        views = {**clean, **self._embed(images, moving)}
        pairs, views = self.fill.weigh(self.occluded_pairs, views, slot, filled)
        return self.objective.loss(views, pairs)

    def _regularization(self) -> tf.Tensor | float:
        """Weight regularizers that a user's own encoder may carry."""
        losses = self.objective.encoder.losses
        return tf.add_n(losses) if losses else 0.0

    def _probe(
        self, batch: Mapping[str, tf.Tensor], clean: Mapping[View, Embedding]
    ) -> dict[str, tf.Tensor]:
        """The probe's loss and accuracy, averaged over its views."""
        encoded = {view: e.features for view, e in clean.items() if e.features is not None}
        views = self.probe.views or tuple(encoded) or (CLEAN1,)
        scores = []
        for view in views:
            features = encoded.get(view)
            if features is None:
                with keras.StatelessScope():
                    features = self.objective.encoder(batch[view.images], training=True)
            scores.append(self.probe(features, batch["label"]))
        loss, accuracy = (tf.add_n(part) / len(views) for part in zip(*scores, strict=True))
        return {"probe_loss": loss, "probe_accuracy": accuracy}
