"""Which devices train together."""

import json
import os

import tensorflow as tf

from adios_tf.errors import UserError


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
