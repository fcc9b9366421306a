"""Which devices train together, and what one replica must know of the others.

With it R replicas compute what one device would for the same global batch.
"""

import json
import os
from collections.abc import Callable

import tensorflow as tf

from adios_tf.errors import UserError

__all__ = ["count", "draw", "gather", "permute", "start_row", "strategy_for"]


def strategy_for(devices: int = 0, cluster: str = "tf_config") -> tf.distribute.Strategy:
    """Returns the strategy for this machine, or for the workers of a cluster.

    Args:
      devices: use the first so many GPUs (or, without any, logical CPUs); 0 = all. A worker of a
        cluster uses all that it sees.
      cluster: what names the workers: `tf_config` = TF_CONFIG, if it is set, or `slurm`.

    Raises:
      UserError: the workers cannot be read, or fewer devices were found than asked for.
    """
    if cluster == "slurm":
        os.environ["TF_CONFIG"] = _slurm_workers()
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


def _slurm_workers() -> str:
    """Returns the TF_CONFIG of this task of a Slurm job step.

    TensorFlow's resolver is asked for names and ports only: it counts GPUs with nvidia-smi, and
    fails without any and where Slurm gives every task its own.
    """
    try:
        # A range of ports per job, so that jobs can share a node; below those that Linux gives.
        job, tasks = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            None, 10_000 + 16 * job % 20_000, tasks, 1, auto_set_gpu=False
        )
        cluster = resolver.cluster_spec().as_dict()
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--cluster=slurm, but this is no task of a Slurm job step ({error}): start it by srun"
        ) from error
    kind, index = resolver.get_task_info()
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


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
