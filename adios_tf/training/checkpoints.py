"""Saving and resuming a run exactly: weights, optimizers, EMA copies, queues, step.

Data order, augmentation and masks are functions of (seed, step), so the step is all that they
need. A save that is killed halfway leaves the one before it in force.
"""

import json
from pathlib import Path

import keras
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.training.pretrainer import Pretrainer


def _state(model: Pretrainer) -> dict[str, keras.Variable]:
    """Every variable that the future of training depends on, by a stable name."""
    means = {id(v) for metric in model.metrics for v in metric.variables}
    parts = {
        "model": [v for v in model.variables if id(v) not in means],
        "optimizer": model.optimizer.variables,
    }
    for name in ("masker_optimizer", "predictor_optimizer", "probe_optimizer"):
        optimizer = getattr(model, name)
        if optimizer is not None:
            parts[name] = optimizer.variables
    return {f"{part}/{n:04d}": v for part, group in parts.items() for n, v in enumerate(group)}


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they lie; made on the first save.
      model: compiled, so that its optimizers are built.
      keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, model: Pretrainer, keep: int = 2):
        self.folder, self.model = Path(folder), model
        self._variables = _state(model)
        holder = tf.train.Checkpoint()
        for name, variable in self._variables.items():
            setattr(holder, name.replace("/", "_"), variable.value)
        self._manager = tf.train.CheckpointManager(holder, str(folder), max_to_keep=keep)
        self._holder = holder

    @property
    def _shapes_file(self) -> Path:
        return self.folder / "variables.json"

    def _shapes(self) -> dict[str, list]:
        return {n: [v.path, list(v.shape)] for n, v in self._variables.items()}

    @property
    def latest(self) -> str | None:
        """Path of the newest complete checkpoint, or None."""
        return self._manager.latest_checkpoint

    def save(self) -> None:
        """Writes a checkpoint named by the number of updates done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._shapes_file.exists():
            self._shapes_file.write_text(json.dumps(self._shapes()))
        self._manager.save(checkpoint_number=int(self.model.step.numpy()))

    def restore(self) -> int:
        """Restores the newest checkpoint and returns the number of updates it had done.

        Raises:
          UserError: it belongs to another architecture or optimizer, or cannot be read.
        """
        path = self.latest
        if path is None:
            raise UserError(f"no checkpoint in {self.folder}")
        if self._shapes_file.exists():
            self._compare(json.loads(self._shapes_file.read_text()))
        try:
            status = self._holder.restore(path)
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {path} cannot be restored ({reason}); delete it to fall back on an "
                "older one, or start a new --run_dir"
            ) from error
        return int(self.model.step.numpy())

    def _compare(self, saved: dict[str, list]) -> None:
        """Names the first variable that differs between the checkpoint and this model."""
        mine = self._shapes()
        for name in [*saved, *mine]:
            theirs, ours = saved.get(name), mine.get(name)
            if theirs is None or ours is None or theirs[1] != ours[1]:
                was = f"{theirs[0]} {theirs[1]}" if theirs else "nothing"
                now = f"{ours[0]} {ours[1]}" if ours else "nothing"
                raise UserError(
                    f"the checkpoint in {self.folder} is of another architecture or optimizer "
                    f"({name}: saved {was}, now {now}); repeat the run's flags.txt or take a "
                    "new --run_dir"
                )


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at the end of every epoch, and every `every_steps` updates if that is not 0."""

    def __init__(self, checkpoints: Checkpoints, every_steps: int = 0):
        super().__init__()
        self._checkpoints, self._every = checkpoints, every_steps
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._done = int(self.model.step.numpy())

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._done += 1
        if self._every and self._done % self._every == 0:
            self._checkpoints.save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._checkpoints.save()
