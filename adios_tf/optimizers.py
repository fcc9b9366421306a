"""The optimizers of the papers: SGD as PyTorch has it, LARS around it, AdamW.

All three differ from Keras's own in the same three ways:

- Weight decay and LARS's scaling leave out one-dimensional weights where asked
  (`exclude_1d`): biases and the scales and offsets of normalization.
- `accumulation_steps=n` updates once per n calls, with the mean of their gradients. Keras's
  `gradient_accumulation_steps` calls `merge_call` inside a `cond`, which TensorFlow refuses
  under any distribution strategy, and keeps a different sum on each replica, which a
  checkpoint loses. Here the sum is taken of all-reduced gradients, so it is the same on
  every replica and is saved.
- No gradient clipping: Keras clips each replica's gradient before they are summed, so R
  replicas would not equal one.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.registry import Registry, construct
from adios_tf.serialization import serializable

__all__ = ["LARS", "OPTIMIZERS", "SGD", "AdamW", "build_optimizer", "is_one_dimensional"]

OPTIMIZERS = Registry("optimizer")

Rate = float | keras.optimizers.schedules.LearningRateSchedule


def is_one_dimensional(variable: keras.Variable) -> bool:
    """Whether `variable` is a bias or a normalization's scale or offset in PyTorch's layout.

    Keras's attention layers keep biases as [heads, size]; in PyTorch they have one dimension,
    so the name decides there. Class tokens and position tables have more than one dimension
    in both.
    """
    return len(variable.shape) <= 1 or variable.name.split(":")[0].endswith("bias")


class _Optimizer(keras.optimizers.Optimizer):
    """Exclusion of one-dimensional weights, and accumulation that works under a strategy.

    A subclass writes `_update(gradient, variable, learning_rate)`, the rule for one weight,
    and takes care of weight decay there.
    """

    def __init__(
        self,
        learning_rate: Rate,
        weight_decay: float,
        exclude_1d: bool,
        accumulation_steps: int = 1,
        **kwargs: Any,
    ):
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise UserError(f"{name}={value} must be a number from 0 on")
        if accumulation_steps < 1:
            raise UserError(f"accumulation_steps={accumulation_steps} must be at least 1")
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.exclude_1d = exclude_1d
        self.accumulation_steps = accumulation_steps

    @property
    def iterations(self) -> Any:
        """Updates made so far; a schedule sees calls, which are `accumulation_steps` as many."""
        return self._iterations // self.accumulation_steps

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots. Call it inside the strategy's scope, with this optimizer's own
        variables, before the first step."""
        if self.built:
            return
        super().build(variables)
        left_out = [self.exclude_1d and is_one_dimensional(variable) for variable in variables]
        self._excluded = frozenset(np.flatnonzero(left_out).tolist())
        if self.accumulation_steps > 1:
            self._sums = self.add_optimizer_variables(variables, "gradient_sum")

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: each rule decays in its own update, so not between accumulated calls."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies or accumulates one gradient, which is already summed over replicas."""
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        learning_rate = tf.cast(learning_rate, variable.dtype)
        if self.accumulation_steps == 1:
            self._update(gradient, variable, learning_rate)
            return
        total = self._sums[self._get_variable_index(variable)]
        mean = (total + gradient) / self.accumulation_steps

        def update() -> None:
            self._update(mean, variable, learning_rate)
            self.assign(total, tf.zeros_like(gradient))

        # A cond is legal here, and not in `apply`: this runs in each device's update, past
        # the last merge_call.
        last = (self._iterations + 1) % self.accumulation_steps == 0
        tf.cond(last, update, lambda: self.assign_add(total, gradient))

    def _update(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        raise NotImplementedError

    def _is_excluded(self, variable: Any) -> bool:
        return self._get_variable_index(variable) in self._excluded

    def get_config(self) -> dict[str, Any]:
        own = {"exclude_1d": self.exclude_1d, "accumulation_steps": self.accumulation_steps}
        return super().get_config() | own


@OPTIMIZERS.register("sgd", "momentum, weight decay added to the gradient")
@serializable
class SGD(_Optimizer):
    """PyTorch's SGD: `g <- g + wd w; v <- momentum v + g; w <- w - lr v`.

    Keras's own multiplies by the rate before the momentum, which differs as soon as the rate
    changes, and decays weights outside of the momentum.

    Args:
      learning_rate: float or schedule.
      momentum: 0 keeps no slots.
      weight_decay: coupled: it goes through the momentum.
      exclude_1d: no decay of one-dimensional weights. PyTorch's default decays all.
      accumulation_steps: calls per update.

    Raises:
      UserError: a number out of range.
    """

    def __init__(
        self,
        learning_rate: Rate,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        exclude_1d: bool = False,
        name: str = "sgd",
        **kwargs: Any,
    ):
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum} must lie in [0, 1)")
        super().__init__(learning_rate, weight_decay, exclude_1d, name=name, **kwargs)
        self.momentum = momentum

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        if self.momentum:
            self._velocities = self.add_optimizer_variables(variables, "velocity")

    def _update(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        step = self._direction(gradient, variable, learning_rate)
        if self.momentum:
            velocity = self._velocities[self._get_variable_index(variable)]
            step = self.momentum * tf.convert_to_tensor(velocity) + step
            self.assign(velocity, step)
        self.assign_sub(variable, learning_rate * step)

    def _direction(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> tf.Tensor:
        """Returns what enters the momentum."""
        if self._is_excluded(variable):
            return gradient
        return gradient + self.weight_decay * variable

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum}


@OPTIMIZERS.register("lars", "SGD with a rate of its own for each weight tensor")
@serializable
class LARS(SGD):
    """Layer-wise adaptive rates around `SGD` (You et al. 2017; here as ADIOS trains).

    For each weight tensor, `trust = eta |w| / (|g| + wd |w| + 1e-8)`; the gradient becomes
    `ratio (g + wd w)` with `ratio = min(trust / lr, 1)` if clipping, else `trust`. Weights
    or gradients of norm zero leave the gradient alone: no scaling, no decay.

    Args:
      learning_rate, momentum, weight_decay, accumulation_steps: see `SGD`.
      eta: trust coefficient: 0.02 in ADIOS's pretraining, 0.001 in its linear evaluation.
      clip: never more than the plain SGD step.
      exclude_1d: plain SGD without decay for one-dimensional weights.

    Raises:
      UserError: a number out of range.
    """

    def __init__(
        self,
        learning_rate: Rate,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.02,
        clip: bool = True,
        exclude_1d: bool = True,
        name: str = "lars",
        **kwargs: Any,
    ):
        if not eta > 0:
            raise UserError(f"eta={eta} must be above 0")
        super().__init__(learning_rate, momentum, weight_decay, exclude_1d, name, **kwargs)
        self.eta, self.clip = eta, clip

    def _direction(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> tf.Tensor:
        if self._is_excluded(variable):
            return gradient
        weight = tf.convert_to_tensor(variable)
        weight_norm, gradient_norm = tf.norm(weight), tf.norm(gradient)
        ratio = self.eta * weight_norm / (gradient_norm + self.weight_decay * weight_norm + 1e-8)
        if self.clip:
            ratio = tf.minimum(ratio / learning_rate, 1.0)
        adapted = ratio * (gradient + self.weight_decay * weight)
        return tf.where((weight_norm > 0) & (gradient_norm > 0), adapted, gradient)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"eta": self.eta, "clip": self.clip}


@OPTIMIZERS.register("adamw", "Adam with decoupled weight decay")
@serializable
class AdamW(_Optimizer, keras.optimizers.AdamW):
    """Keras's AdamW (Loshchilov & Hutter 2019) with PyTorch's epsilon.

    Args:
      learning_rate, accumulation_steps: see `SGD`.
      weight_decay: decoupled: `w <- w - lr wd w` before Adam's step.
      exclude_1d: no decay of one-dimensional weights.
    """

    def __init__(
        self,
        learning_rate: Rate,
        weight_decay: float = 0.0,
        exclude_1d: bool = True,
        epsilon: float = 1e-8,
        name: str = "adamw",
        **kwargs: Any,
    ):
        options = kwargs | {"epsilon": epsilon, "name": name}
        super().__init__(learning_rate, weight_decay, exclude_1d, **options)

    def _update(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        if self.weight_decay and not self._is_excluded(variable):
            self.assign_sub(variable, learning_rate * self.weight_decay * variable)
        keras.optimizers.AdamW.update_step(self, gradient, variable, learning_rate)


def build_optimizer(
    name: str,
    learning_rate: Rate,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    eta: float = 0.02,
    clip: bool = True,
    exclude_1d: bool | None = None,
    accumulation_steps: int = 1,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer by name.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: float, or a schedule as `build_schedule` returns.
      weight_decay: see the class.
      momentum: for `sgd` and `lars`.
      eta, clip: for `lars`.
      exclude_1d: leave one-dimensional weights alone; None is the class's own default: no
        for `sgd`, yes for the others.
      accumulation_steps: calls per update.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    options = {
        "weight_decay": weight_decay,
        "momentum": momentum,
        "eta": eta,
        "clip": clip,
        "exclude_1d": exclude_1d,
        "accumulation_steps": accumulation_steps,
    }
    return construct(OPTIMIZERS[name], options, learning_rate=learning_rate)
