"""Which devices train together, and what one replica must know of the others.

With it R replicas compute what one device would for the same global batch.
"""

import json
import os
from collections.abc import Callable

import tensorflow as tf

from adios_tf.errors import UserError

__all__ = ["count", "draw", "gather", "permute", "start_row", "strategy_for"]


def strategy_for(devices: int = 0) -> tf.distribute.Strategy:
    """Returns the strategy for this machine, or for several if TF_CONFIG names them.

    Args:
      devices: use the first so many GPUs (or, without any, logical CPUs); 0 = all.

    Raises:
      UserError: TF_CONFIG cannot be read, or fewer devices were found than asked for.
    """
    if "TF_CONFIG" in os.environ:
        try:
            json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"TF_CONFIG is set but names no workers ({error})") from error
        return tf.distribute.MultiWorkerMirroredStrategy()
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(found):
        raise UserError(f"--devices={devices}, but only {len(found)} were found")
    return tf.distribute.MirroredStrategy([d.name for d in found[: devices or len(found)]])


def count() -> int:
    """Returns how many replicas share the global batch (1 outside a strategy)."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def start_row(local_rows: tf.Tensor) -> tf.Tensor:
    """Returns where this replica's `local_rows` begin in the global batch; int32 scalar."""
    if count() == 1:
        return tf.constant(0)
    return tf.distribute.get_replica_context().replica_id_in_sync_group * local_rows


def gather(x: tf.Tensor) -> tf.Tensor:
    """Returns the rows `x` of all replicas in order, [B,...] -> [R*B,...].

    The gradient flows back to every replica, so a loss of gathered rows, divided by the
    number of replicas and summed over them, moves the weights as one device would.
    """
    if count() == 1:
        return x
    return tf.distribute.get_replica_context().all_gather(x, axis=0)


@tf.custom_gradient
def _rows_of(x: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Rows `index` of x, each at most once; the gradient is dense, as `all_gather` wants it."""

    def back(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.scatter_nd(index[:, None], upstream, tf.shape(x)), None

    return tf.gather(x, index), back


def permute(x: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Returns this replica's part of the global batch re-ordered: row i becomes row order[i].

    Args:
      x: this replica's rows, [B,...].
      order: int32 [R*B], a permutation of the global batch.
    """
    rows = tf.shape(x)[0]
    begin = start_row(rows)
    return _rows_of(gather(x), order[begin : begin + rows])


def draw(sampler: Callable[[tf.Tensor], tf.Tensor], local_rows: tf.Tensor) -> tf.Tensor:
    """Returns this replica's rows of a random draw for the global batch.

    Args:
      sampler: given the number of rows of the global batch, returns as many rows; seeded
        alike on all replicas.
      local_rows: rows that this replica wants.
    """
    begin = start_row(local_rows)
    return sampler(local_rows * count())[begin : begin + local_rows]
