"""bin/pretrain.py on two logical devices; STOP_AFTER=n ends it with code 9 after n updates."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from adios_tf.cli import parse
from adios_tf.training import callbacks
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
if os.environ["STOP_AFTER"]:

    class Save(callbacks.SaveCheckpoints):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            super().on_train_batch_end(batch, logs)
            if batch + 1 == int(os.environ["STOP_AFTER"]):
                os._exit(9)

    import adios_tf.training.run

    adios_tf.training.run.SaveCheckpoints = Save
pretrain(parse(PretrainConfig, sys.argv[1:]))
