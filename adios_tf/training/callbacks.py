"""What happens around the steps: progress, guards, health, pictures, records."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.reporting.health import (
    alarms,
    feature_health,
    gradient_rise,
    image_health,
    mask_health,
)
from adios_tf.reporting.panels import mask_panel
from adios_tf.run_folder import RunFolder
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.workers import is_chief, together

COLLAPSED_SPREAD = 0.02


class Progress(keras.callbacks.Callback):
    """One bar for the whole run, in images, and one line per epoch."""

    def __init__(self, batch_size: int, steps: int, steps_done: int):
        super().__init__()
        self._batch, self._images, self._done = batch_size, steps * batch_size, steps_done
        self._bar: tqdm | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._bar is None:
            tqdm.write("building the training step")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._done += 1
        if self._bar is None:  # only now, so that the time left does not count the building
            self._bar = tqdm(
                total=self._images,
                initial=self._done * self._batch,
                unit="img",
                unit_scale=True,
                desc="pretrain",
                mininterval=1.0,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
                "{rate_noinv_fmt}]",
            )
        else:
            self._bar.update(self._batch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        shown = "  ".join(f"{k} {v:.4g}" for k, v in (logs or {}).items() if np.ndim(v) == 0)
        tqdm.write(f"epoch {epoch + 1}: {shown}")

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._bar is not None and self._done * self._batch >= self._images:
            self._bar.close()


def from_before(saved: Path | None) -> str:
    """Says which checkpoint a run that went wrong can go back to."""
    if saved is None:
        return "no checkpoint had been written yet"
    return f"the last checkpoint, {saved.name}, is from before"


class Guard(keras.callbacks.Callback):
    """Stops the run on numbers that are no numbers, before they reach a checkpoint.

    Args:
      every: look at the losses every so many batches of an epoch, and at its end.
      saves: a checkpoint is written every so many updates (0 = at the end of an epoch only);
        before each, the weights are looked at too: a loss tells of the weights before its step.
      last_saved: returns the newest checkpoint, or None.
    """

    def __init__(
        self, every: int = 25, saves: int = 0, last_saved: Callable[[], Path | None] = lambda: None
    ):
        super().__init__()
        self._every, self._saves, self._done = every, saves, 0
        self._last_saved = last_saved

    def _check(self, logs: Mapping[str, Any] | None, where: str) -> None:
        for name, value in (logs or {}).items():
            if not math.isfinite(float(value)):
                self._stop(f"{name} is {float(value)} in {where}")

    def check_weights(self, where: str) -> None:
        """Raises `UserError` where a weight is not finite."""
        for variable in self.model.variables:
            value = tf.convert_to_tensor(variable)
            if value.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(value)):
                self._stop(f"{variable.path} is not finite after {where}")

    def _stop(self, what: str) -> None:
        raise UserError(
            f"{what}: training diverged and was stopped; {from_before(self._last_saved())}. Lower "
            "--learning_rate or --masker_learning_rate, or take --precision=float32; "
            f"--replay={self._done} names the input or layer that it comes from"
        )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._done = int(self.model.step.numpy())

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._done += 1
        where = f"batch {batch + 1} of this epoch"
        saved = self._saves and self._done % self._saves == 0
        if saved or (batch + 1) % self._every == 0:
            self._check(logs, where)
        if saved:
            self.check_weights(where)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._check(logs, f"epoch {epoch + 1}")
        self.check_weights(f"epoch {epoch + 1}")


class Monitor(keras.callbacks.Callback):
    """Writes one record per epoch: losses, rates, speed, health of features and masks, kNN.

    Args:
      run: gets records, TensorBoard events and pictures.
      views: a fixed batch {"view1", "view2"} of augmented, normalized views [B,S,S,3].
      images, truth: fixed pictures for the panel, [P,S,S,3] in [0,1], and their labels
        [P,S,S] or None.
      normalize: brings [0,1] images to what the networks read.
      knn: returns {"knn": accuracy}, called every `knn_every` epochs; None = never.
      images_per_epoch: for the speed.
      stop_on_collapse: raise once the features have collapsed to a point.
      last_saved: returns the newest checkpoint, or None.
      resumed: what `state` had returned where an epoch is resumed in its middle.
    """

    def __init__(
        self,
        run: RunFolder,
        views: Mapping[str, tf.Tensor],
        *,
        images: np.ndarray,
        truth: np.ndarray | None,
        normalize: Callable[[Any], tf.Tensor],
        knn: Callable[[], dict[str, float]] | None,
        knn_every: int,
        picture_every: int,
        images_per_epoch: int,
        stop_on_collapse: bool,
        epochs: int,
        last_saved: Callable[[], Path | None] = lambda: None,
        resumed: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self._run, self._views, self._images, self._truth = run, views, images, truth
        self._normalize, self._knn, self._knn_every = normalize, knn, knn_every
        self._picture_every, self._images_per_epoch = picture_every, images_per_epoch
        self._stop_on_collapse, self._epochs = stop_on_collapse, epochs
        self._writer = tf.summary.create_file_writer(str(run.tensorboard))
        self._started, self._rates_at_begin = time.perf_counter(), {}
        self._last_saved, self._resumed = last_saved, dict(resumed or {})

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._started = time.perf_counter() - self._resumed.get("seconds", 0.0)
        # At its end, they are already the next epoch's.
        self._rates_at_begin = self._resumed.get("rates") or self._rates()
        self._resumed = {}

    def state(self) -> dict[str, Any]:
        """What a run that is resumed in the middle of this epoch must know of its first part."""
        return {"seconds": time.perf_counter() - self._started, "rates": self._rates_at_begin}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self._started
        record = {"epoch": epoch + 1, "step": int(self.model.step.numpy())}
        record |= {name: float(value) for name, value in (logs or {}).items()}
        record |= self._rates_at_begin
        record |= {"seconds": seconds, "images_per_second": self._images_per_epoch / seconds}
        earlier = self._run.records()
        record |= self._health() | gradient_rise(earlier, record)
        last = epoch + 1 == self._epochs
        if self._knn is not None and self._knn_every and (epoch + 1) % self._knn_every == 0:
            record |= self._knn()
        self._run.add_record(record)
        for line in alarms([*earlier, record]):
            tqdm.write(f"epoch {epoch + 1}: {line}")
        with self._writer.as_default(step=epoch + 1):
            for name, value in record.items():
                tf.summary.scalar(name, value)
        if last or (self._picture_every and (epoch + 1) % self._picture_every == 0):
            self._draw(epoch + 1)
        self._writer.flush()
        if self._stop_on_collapse and record["feature_spread"] < COLLAPSED_SPREAD:
            raise UserError(
                f"the features collapsed to a point in epoch {epoch + 1} (feature_spread "
                f"{record['feature_spread']:.3g}, healthy is above 0.3); "
                f"{from_before(self._last_saved())}. Lower the learning rates or raise "
                "--sparsity_weight, or pass --nostop_on_collapse to go on"
            )

    def _rates(self) -> dict[str, float]:
        optimizers = {"": self.model.optimizer, "masker_": self.model.masker_optimizer}
        return {  # a tensor, or where the schedule is constant a variable
            f"{whose}learning_rate": float(tf.convert_to_tensor(optimizer.learning_rate))
            for whose, optimizer in optimizers.items()
            if optimizer is not None
        }

    def _health(self) -> dict[str, float]:
        """Health of features and masks on the fixed views, in inference mode."""
        encoder = self.model.inference_encoder
        first, second = (
            np.asarray(encoder(self._views[view], training=False), np.float32)
            for view in ("view1", "view2")
        )
        health = feature_health(first, second) | image_health(np.asarray(self._views["view1"]))
        if self.model.masking.trained_variables():
            health |= mask_health(self._masks(self._views["view2"]))
        return health

    def _masks(self, images: tf.Tensor, truth: np.ndarray | None = None) -> np.ndarray:
        seed = tf.constant([0, 0], tf.int32)
        return self.model.masking.masks(images, truth, seed, training=False).numpy()

    def _draw(self, epoch: int) -> None:
        if not self.model.masked_views:
            return
        masks = self._masks(self._normalize(self._images), self._truth)
        panel = mask_panel(self._images, masks, self._truth, self._run.panel(epoch))
        with self._writer.as_default(step=epoch):
            tf.summary.image("masks", panel[None])


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at the end of every epoch, and every `every_steps` updates if that is not 0.

    With a checkpoint inside an epoch goes what the epoch's record needs: its means so far, and
    `monitor.state()`. Every worker takes part, since reading the means adds them up; the chief
    writes, and alone has a monitor.
    """

    def __init__(
        self, checkpoints: Checkpoints, guard: Guard, monitor: Monitor | None, every_steps: int = 0
    ):
        super().__init__()
        self._checkpoints, self._guard, self._monitor = checkpoints, guard, monitor
        self._every, self._done = every_steps, 0
        self._saved = int(checkpoints.model.step.numpy())
        self._means = checkpoints.epoch.get("means", {})

    def _metrics(self) -> dict[str, list[keras.Variable]]:
        return {metric.name: metric.variables for metric in self.model.metrics}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._done = int(self.model.step.numpy())
        # Here, since Keras sets the means to zero at the beginning of every `fit` and epoch.
        for name, values in self._means.items():
            for variable, value in zip(self._metrics().get(name, []), values, strict=False):
                variable.assign(value * self.model.distribute_strategy.num_replicas_in_sync)
        self._means = {}

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._done += 1
        last = batch + 1 == self.params["steps"]  # its checkpoint is that of the epoch's end
        if self._every and self._done % self._every == 0 and not last:
            self.save_open()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._save({"open": False})

    def _save(self, epoch: dict[str, Any]) -> None:
        strategy = self.model.distribute_strategy
        with together(strategy):
            if is_chief(strategy):
                self._checkpoints.save(epoch)
        self._saved = int(self.model.step.numpy())

    def save_open(self) -> None:
        """Saves inside an epoch, unless nothing was trained since the last checkpoint."""
        if int(self.model.step.numpy()) == self._saved:
            return
        self._guard.check_weights("the last update")
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        means = {  # per replica: an update weighs the same on any number of them
            name: [float(np.sum(variable.numpy())) / replicas for variable in variables]
            for name, variables in self._metrics().items()
        }
        state = {} if self._monitor is None else self._monitor.state()
        self._save({"open": True, "means": means, "monitor": state})
