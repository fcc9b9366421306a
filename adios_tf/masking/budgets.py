"""How much one step of sequential adversarial masking may hide.

The paper (arXiv 2212.08277) puts "different constraints" on the adversary and was not readable
beyond that; what follows is inferred (papers: sequential adversarial masking, a.2). A *gate*
h in [0,1] hides free * h, where `free` is what is still visible.
"""

from collections.abc import Sequence

import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking.grid import choose, upsample
from adios_tf.masking.sampling import bisect

KINDS = ("projection", "topk", "at_most", "near", "sparsity")
LOGIT_LIMIT = 15.0
REACHABLE = 0.999
_BISECTIONS = 30
_SLOPE_FLOOR = 1e-6


def as_list(budget: Sequence[float], steps: int) -> tuple[float, ...]:
    """Returns one budget per step from one for all, or from a list of them.

    `UserError` for another number of budgets than steps, or one outside (0,1).
    """
    budget = tuple(budget)
    if len(budget) == 1:
        budget *= steps
    if len(budget) != steps:
        raise UserError(
            f"--budget names {len(budget)} shares for {steps} budgeted steps: give one, or one each"
        )
    for share in budget:
        if not 0 < share < 1:
            raise UserError(f"--budget={share} must lie between 0 and 1: a share of the image")
    return budget


def sigmoid_gate(logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """The gate without a budget: sigmoid(logits / T), logits clipped so that it never saturates."""
    return tf.sigmoid(tf.clip_by_value(logits, -LOGIT_LIMIT, LOGIT_LIMIT) / temperature)


def _mean(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(x, axis=(1, 2), keepdims=True)


@tf.function(autograph=False)
def _bisect(logits: tf.Tensor, free: tf.Tensor, target: tf.Tensor, edge: float) -> tf.Tensor:
    """Returns t in [-edge, edge] with mean(free * sigmoid(logits + t)) = target, [B,1,1].

    A function of its own so that an eager step runs it as one operation.
    """

    def short(shift: tf.Tensor) -> tf.Tensor:
        return _mean(free * tf.sigmoid(logits + shift)) < target

    return bisect(short, -edge * tf.ones_like(target), edge * tf.ones_like(target), _BISECTIONS)


def project(
    logits: tf.Tensor, free: tf.Tensor, budget: float, temperature: float = 1.0
) -> tf.Tensor:
    """The gate that hides exactly the budget: sigmoid((logits + t) / T) with t per image.

    t is found by bisection, without gradient, and corrected by one differentiable Newton step, so
    that the gradient is the implicit one: that of the total coverage vanishes, and the adversary
    can move what it hides but not hide more. A constant added to the logits [B,H,W] changes
    nothing.

    Returns [B,H,W] in [0,1] with mean(free * gate) = min(budget, 0.999 mean(free)) per image, where
    `free` [B,H,W] in [0,1] is what is still visible, and the budget the share of the image to hide.
    """
    room = _mean(free)
    center = tf.stop_gradient(_mean(free * logits) / tf.maximum(room, _SLOPE_FLOOR))
    logits = tf.clip_by_value(logits - center, -LOGIT_LIMIT, LOGIT_LIMIT) / temperature
    target = tf.minimum(REACHABLE * room, budget)
    still = (tf.stop_gradient(x) for x in (logits, free, target))
    shift = tf.stop_gradient(_bisect(*still, 2 * LOGIT_LIMIT * max(1.0, 1 / temperature)))
    gate = tf.sigmoid(logits + shift)
    slope = tf.stop_gradient(tf.maximum(_mean(free * gate * (1 - gate)), _SLOPE_FLOOR))
    return tf.sigmoid(logits + shift - (_mean(free * gate) - target) / slope)


def top_share(
    logits: tf.Tensor, free: tf.Tensor, budget: float, temperature: float = 1.0, cell: int = 1
) -> tf.Tensor:
    """A binary gate on the largest logits among what is free, with the sigmoid's gradient.

    Logits are [B,S,S]; `free` is 1 where still visible and 0 where not; the budget is the share of
    the image to hide, rounded down to whole cells of `cell` pixels a side. The temperature is that
    of the sigmoid whose gradient passes straight through. `UserError` where the cells do not tile
    the image, or the budget is less than one of them.
    """
    side = logits.shape[1]
    if side % cell:
        raise UserError(f"--topk_cell={cell} does not divide an image side of {side}")
    number = int(budget * (side // cell) ** 2 + 1e-6)
    if number < 1:
        raise UserError(
            f"--budget={budget} is less than one cell of {cell} pixels: take a smaller --topk_cell"
        )

    def pooled(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.avg_pool2d(x[..., None], cell, cell, "VALID")[..., 0]

    coarse, open_ = pooled(logits), pooled(free) > 0.5
    cells = side // cell
    rank = tf.reshape(tf.where(open_, -coarse, coarse.dtype.max), [-1, cells * cells])
    taken = tf.reshape(choose(rank, number), [-1, cells, cells]) & open_
    hard = upsample(tf.cast(taken, logits.dtype), side, side)
    soft = upsample(sigmoid_gate(coarse, temperature), side, side)
    return hard + (soft - tf.stop_gradient(soft))


def excess(coverages: tf.Tensor, budgets: Sequence[float], both_sides: bool) -> tf.Tensor:
    """Sum over steps of the batch mean of (s - r)^2, where s is above r, or on both sides.

    `coverages` are s, [B,N], `budgets` the N shares r.
    """
    beyond = coverages - tf.constant(budgets, coverages.dtype)
    if not both_sides:
        beyond = tf.nn.relu(beyond)
    return tf.reduce_sum(tf.reduce_mean(tf.square(beyond), axis=0))
