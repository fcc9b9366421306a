"""Learning rates as functions of the step."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.registry import Registry, construct
from adios_tf.serialization import serializable

__all__ = ["SCHEDULES", "WarmupCosine", "build_schedule", "cosine_ramp"]

SCHEDULES = Registry("schedule")


@SCHEDULES.register("warmup_cosine", "linear warm-up, then a cosine to the minimum")
@serializable
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `base`, then half a cosine down to `minimum`.

    With `per_epoch` the rate is constant within an epoch, as ADIOS trains (papers: ADIOS,
    official code, lightning-bolts' schedule). Epoch e of W warm-up epochs has
    `start + e (base - start) / (W - 1)`, so the base rate is reached in epoch W - 1 and kept
    in epoch W; from there `minimum + (base - minimum) (1 + cos(pi (e - W) / (E - W))) / 2`.
    Every rate warms from the same `warmup_start`, even one whose base lies below it.
    Without `per_epoch` the same shape is followed step by step, with no plateau. Beyond
    `epochs` the cosine comes up again, as the official one does.

    Computed in float64, because a late epoch's rate is a small difference of large numbers;
    returned in Keras's default float type.

    Args:
      base: the rate after the warm-up.
      epochs: E, the epoch at whose start the minimum is reached.
      steps_per_epoch: optimizer calls per epoch; with gradient accumulation these are the
        calls, not the updates.
      warmup_epochs: W; 0 starts at `base`.
      warmup_start: rate of step 0.
      minimum: rate at the end.
      per_epoch: constant within an epoch.

    Raises:
      UserError: a number out of range, or a warm-up that leaves no epoch for the cosine.
    """

    def __init__(
        self,
        base: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: int = 10,
        warmup_start: float = 0.003,
        minimum: float = 0.0,
        per_epoch: bool = True,
    ):
        super().__init__()
        _check_length(epochs, steps_per_epoch)
        if not 0 <= warmup_epochs < epochs:
            raise UserError(
                f"warmup_epochs={warmup_epochs} must be at least 0 and below epochs={epochs}: "
                "shorten the warm-up or train longer"
            )
        for name, value in (("warmup_start", warmup_start), ("minimum", minimum)):
            if not 0 <= value < np.inf:
                raise UserError(f"{name}={value}: a learning rate is a number from 0 on")
        if not minimum <= base < np.inf:
            raise UserError(f"learning rate {base} must be at least its minimum {minimum}")
        self.base, self.epochs, self.steps_per_epoch = float(base), epochs, steps_per_epoch
        self.warmup_epochs, self.warmup_start = warmup_epochs, float(warmup_start)
        self.minimum, self.per_epoch = float(minimum), per_epoch

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the rate (scalar) of step `step`, counted from 0."""
        epoch = keras.ops.cast(step, "float64") / self.steps_per_epoch
        warmup = float(self.warmup_epochs)
        climb = warmup
        if self.per_epoch:
            epoch = tf.floor(epoch)
            climb = max(warmup - 1.0, 1.0)
        rising = self.warmup_start + epoch * (self.base - self.warmup_start) / max(climb, 1.0)
        turn = np.pi * (epoch - warmup) / (self.epochs - warmup)
        falling = self.minimum + 0.5 * (self.base - self.minimum) * (1.0 + tf.cos(turn))
        return tf.cast(tf.where(epoch < warmup, rising, falling), keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        names = ("base", "epochs", "steps_per_epoch", "warmup_epochs", "warmup_start")
        return {name: getattr(self, name) for name in (*names, "minimum", "per_epoch")}


def _check_length(epochs: int, steps_per_epoch: int) -> None:
    if epochs < 1 or steps_per_epoch < 1:
        raise UserError(
            f"epochs={epochs} and steps_per_epoch={steps_per_epoch} must both be at least 1"
        )


@SCHEDULES.register("cosine", "a cosine from the base rate to the minimum")
def _cosine(
    base: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_start: float,
    minimum: float,
    per_epoch: bool,
) -> WarmupCosine:
    return WarmupCosine(base, epochs, steps_per_epoch, 0, warmup_start, minimum, per_epoch)


@SCHEDULES.register("step", "times gamma at each milestone (epochs)")
def _step(
    base: float, epochs: int, steps_per_epoch: int, milestones: Sequence[int], gamma: float
) -> keras.optimizers.schedules.LearningRateSchedule:
    _check_length(epochs, steps_per_epoch)
    milestones = list(milestones)
    if not milestones or milestones != sorted(set(milestones)) or milestones[0] < 1:
        raise UserError(
            f"milestones={milestones}: name at least one epoch, ascending, from 1 on, "
            "for schedule 'step'"
        )
    # Keras keeps the old value on the boundary itself: the last step of the epoch before.
    boundaries = [epoch * steps_per_epoch - 1 for epoch in milestones]
    values = [base * gamma**count for count in range(len(milestones) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


@SCHEDULES.register("constant", "the base rate throughout")
def _constant(base: float) -> float:
    return float(base)


def build_schedule(
    name: str,
    base: float,
    epochs: int,
    steps_per_epoch: int,
    *,
    warmup_epochs: int = 10,
    warmup_start: float = 0.003,
    minimum: float = 0.0,
    per_epoch: bool = True,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """Returns the learning rate that an optimizer takes: a schedule, or a float if constant.

    Args:
      name: one of `SCHEDULES`.
      base, epochs, steps_per_epoch: see `WarmupCosine`.
      warmup_epochs, warmup_start: for `warmup_cosine`.
      minimum, per_epoch: for `warmup_cosine` and `cosine`.
      milestones, gamma: for `step`.

    Raises:
      UserError: an unknown name, or numbers that make no schedule.
    """
    if not 0 <= base < np.inf:
        raise UserError(f"learning rate {base}: it is a number from 0 on")
    options = {
        "base": base,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "warmup_epochs": warmup_epochs,
        "warmup_start": warmup_start,
        "minimum": minimum,
        "per_epoch": per_epoch,
        "milestones": milestones,
        "gamma": gamma,
    }
    return construct(SCHEDULES[name], options)


def cosine_ramp(step: tf.Tensor, total_steps: int, base: float, final: float) -> tf.Tensor:
    """EMA momentum of BYOL (Grill et al., 2020): a cosine from `base` to `final`.

    Args:
      step: counted from 0, any shape.
      total_steps: where `final` is reached, and kept.
      base, final: momenta in [0,1].

    Returns:
      float64, as `step`.
    """
    progress = tf.minimum(tf.cast(step, tf.float64) / float(total_steps), 1.0)
    return final - (final - base) * (tf.cos(np.pi * progress) + 1.0) / 2.0
