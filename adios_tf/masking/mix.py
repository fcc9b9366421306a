"""MixMask (Vishniakov et al., 2022): another image of the batch fills the hole."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from adios_tf import distribution
from adios_tf.masking.fill import FILLS, Fill, Filled, per_channel
from adios_tf.masking.sampling import permutation
from adios_tf.objectives import Embedding, Pair, View
from adios_tf.registry import check_choice
from adios_tf.serialization import serializable

PARTNERS = ("reversal", "random")


@FILLS.register("mix", "another image of the batch, both losses weighed by what shows (MixMask)")
@serializable
class Mix(Fill):
    """x_mix = (1 - m) x + m x[partner], scored as both of the images it shows.

    With lambda the share of the image itself that is visible, a pair of a mixed view and a clean
    one becomes: lambda times the pair, plus 1 - lambda times the pair with the mixed embeddings
    put back into the order of the images that filled them (papers: MixMask, official code). The
    clean views keep a term of their own, weight 1. lambda is the realized share per image.

    Inferred: no gradient flows through lambda, so a learned mask cannot win by trading weights;
    a pair of two mixed views shows the same two images on both sides and keeps its weight.

    Args:
      partner: `reversal` of the batch, as the official code has it where there is one mixture;
        the further slots of an update take a random partner, so that no two mixtures of an
        image share theirs. `random`: always a random permutation.

    Raises:
      UserError: another `partner`.
    """

    clean_weight = 1.0

    def __init__(self, partner: str = "reversal", **kwargs: Any):
        super().__init__(**kwargs)
        check_choice("--partner", partner, PARTNERS)
        self.partner = partner

    def order(self, rows: tf.Tensor, seed: tf.Tensor, slot: int) -> tf.Tensor:
        """Returns which image fills image i: a permutation of the global batch, int32 [R*rows]."""
        if self.partner == "reversal" and slot == 0:
            return tf.reverse(tf.range(rows * distribution.count()), axis=[0])
        return permutation(rows, seed)

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        order = self.order(tf.shape(images)[0], seed, slot)
        hidden = per_channel(mask, images.dtype)
        return Filled(images * (1 - hidden) + distribution.permute(images, order) * hidden, order)

    def visible_share(self, mask: tf.Tensor) -> tf.Tensor:
        """lambda of each image, [B], of a mask [B,H,W] or [B,H,W,3]; without gradient."""
        hidden = tf.reduce_mean(tf.cast(mask, tf.float32), range(1, mask.shape.rank))
        return tf.stop_gradient(1 - hidden)

    def weigh(
        self,
        pairs: Sequence[Pair],
        views: Mapping[View, Embedding],
        slot: Mapping[int, tf.Tensor],
        filled: Mapping[int, Filled],
    ) -> tuple[Sequence[Pair], Mapping[View, Embedding]]:
        views, shown, shown_by_partner = dict(views), {}, {}
        for index, cover in filled.items():
            view, back = View(index, occluded=True), tf.math.invert_permutation(cover.partner)
            shown[view] = self.visible_share(slot[index])
            shown_by_partner[view] = distribution.permute(1 - shown[view], back)
            query, key = (
                None if part is None else distribution.permute(part, back)
                for part in views[view][1:]
            )
            views[view._replace(as_partner=True)] = Embedding(None, query, key)

        weighed = []
        for pair in pairs:
            mixed = [view for view in pair[:2] if view in shown]
            if len(mixed) != 1:
                weighed.append(pair)
                continue
            (view,) = mixed
            ends = [end._replace(as_partner=True) if end == view else end for end in pair[:2]]
            weighed.append(pair._replace(weight=pair.weight * shown[view]))
            weighed.append(Pair(*ends, pair.weight * shown_by_partner[view]))
        return weighed, views
