"""bin/pretrain.py on logical devices (run by a test).

PLAN=2:3 kills it on two devices after three updates, PLAN=2: lets it end.
"""

import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from adios_tf.cli import parse
from adios_tf.training import callbacks, run
from adios_tf.training.config import PretrainConfig


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class Save(callbacks.SaveCheckpoints):
    left = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        Save.left -= 1
        if Save.left == 0:
            raise Killed


[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
run.SaveCheckpoints = Save
config = parse(PretrainConfig, sys.argv[1:])
devices, _, updates = os.environ["PLAN"].partition(":")
Save.left = int(updates or 0)
try:
    run.pretrain(dataclasses.replace(config, devices=int(devices)))
except Killed:
    print("killed after", updates, "updates on", devices, "devices")
