"""Saving and resuming a run exactly: weights, optimizers, EMA copies, queues, step, epoch means.

Data order, augmentation and masks are functions of (seed, step), so the step is all that they
need. In the folder of the checkpoints:

    ckpt-N/               the run after N updates
      weights.*           every variable, as a TensorFlow checkpoint
      manifest.json       SHA-256 of these files, the variables' shapes, the state of the epoch
    ckpt-N.damaged/       what did not match its manifest, kept aside

A checkpoint is written under another name and renamed once it is whole and on disk, so a folder
called ckpt-N is complete or damaged, never half written. Runs from before manifests hold
ckpt-N.index and ckpt-N.data-* instead, which are read too.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.training.pretrainer import Pretrainer

MANIFEST, WEIGHTS = "manifest.json", "weights"
_NEW, _OLD, _GONE = ".new-", ".old-", ".gone-"  # being written, replaced, removed


class Damage(Exception):
    """What is wrong with a checkpoint's files."""


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


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(content: Mapping[str, Any]) -> str:
    """The text of a manifest, which ends with the checksum of all that stands before it."""
    body = json.dumps(content, indent=1)
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n"


def _unseal(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text[: text.rindex("}") + 1])
    except (OSError, ValueError) as error:
        raise Damage(f"{file.name} cannot be read") from error
    if not isinstance(content, dict) or _seal(content) != text:
        raise Damage(f"{file.name} does not match its checksum")
    return content


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: where they lie; made on the first save.
      model: compiled, so that its optimizers are built.
      keep: how many of the newest to keep.
      data: counts of the data that the model is trained on, saved with it.

    Attributes:
      saved_data: `data`, as of the checkpoint that was restored.
      epoch: what `save` was told of the epoch, as of the checkpoint that was restored; {} for
        a fresh run and for checkpoints without a manifest.
    """

    def __init__(
        self,
        folder: Path,
        model: Pretrainer,
        keep: int = 2,
        data: Mapping[str, int] | None = None,
    ):
        self.folder, self.model, self.keep = Path(folder), model, keep
        self.data, self.saved_data = dict(data or {}), {}
        self.epoch: dict[str, Any] = {}
        self._variables = _state(model)
        self._holder = tf.train.Checkpoint()
        for name, variable in self._variables.items():
            setattr(self._holder, name.replace("/", "_"), variable.value)

    def _shapes(self) -> dict[str, list]:
        return {n: [v.path, list(v.shape)] for n, v in self._variables.items()}

    @staticmethod
    def steps_in(folder: Path) -> dict[int, Path]:
        """{updates done: folder, or prefix of the files before manifests}, oldest first."""
        found = {}
        for path in folder.glob("ckpt-*"):
            name = re.fullmatch(r"ckpt-(\d+)(\.index|\.data-\d+-of-\d+)?", path.name)
            if name and (path.is_dir() or name[2]):
                found[int(name[1])] = folder / f"ckpt-{name[1]}"
        return dict(sorted(found.items()))

    def steps(self) -> dict[int, Path]:
        """The checkpoints of the run, as `steps_in` has them."""
        return self.steps_in(self.folder)

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint, or None; whether it is intact shows on reading it."""
        return next(reversed(self.steps().values()), None)

    @property
    def exist(self) -> bool:
        """Whether there are checkpoints, be they damaged."""
        return self.latest is not None or any(self.folder.glob("ckpt-*.damaged*"))

    def digest(self) -> str:
        """SHA-256 of everything that a checkpoint of the model as it is would hold."""
        total = hashlib.sha256()
        for name, variable in self._variables.items():
            total.update(name.encode() + np.ascontiguousarray(variable.numpy()).tobytes())
        return total.hexdigest()

    # ------------------------------------------------------------------ writing

    def save(self, epoch: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint named by the number of updates done.

        Args:
          epoch: what else must come back with it, JSON-able; see `epoch`.
        """
        step = int(self.model.step.numpy())
        target, fresh = self.folder / f"ckpt-{step}", self.folder / f"{_NEW}{step}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        self._holder.write(str(fresh / WEIGHTS))
        files = sorted(fresh.iterdir())
        content = {
            "step": step,
            "files": {file.name: _digest(file) for file in files},
            "variables": self._shapes(),
            "data": self.data,
            "epoch": dict(epoch or {}),
        }
        (fresh / MANIFEST).write_text(_seal(content), encoding="utf-8")
        for path in (*files, fresh / MANIFEST, fresh):
            _to_disk(path)
        if target.exists():
            target.rename(self.folder / f"{_OLD}{step}")
        fresh.rename(target)
        _to_disk(self.folder)
        shutil.rmtree(self.folder / f"{_OLD}{step}", ignore_errors=True)
        for step, path in list(self.steps().items())[: -self.keep]:
            self._move(path, self.folder / f"{_GONE}{step}")
            shutil.rmtree(self.folder / f"{_GONE}{step}", ignore_errors=True)

    def tidy(self) -> None:
        """Removes what a kill left half written or half removed."""
        for old in self.folder.glob(f"{_OLD}*"):
            target = self.folder / f"ckpt-{old.name.removeprefix(_OLD)}"
            if not target.exists():  # killed between the two renames of `save`
                old.rename(target)
        for pattern in (f"{_NEW}*", f"{_OLD}*", f"{_GONE}*", "ckpt-*_temp"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _move(self, path: Path, target: Path) -> None:
        """Moves a checkpoint of either kind into a folder of that name."""
        if path.is_dir():
            path.rename(target)
        else:
            target.mkdir(exist_ok=True)
            for file in self.folder.glob(f"{path.name}.*"):
                if file.is_file():
                    file.rename(target / file.name)

    # ------------------------------------------------------------------ reading

    def restore(self, most: int | None = None, keep_aside: bool = True) -> int:
        """Restores the newest intact checkpoint and returns the number of updates it had done.

        Damaged ones are named in one line each and renamed to ckpt-N.damaged.

        Args:
          most: of at most so many updates; None = any.
          keep_aside: False leaves the folder as it is.

        Raises:
          UserError: none is intact, or it belongs to another architecture or optimizer.
        """
        for step, path in reversed(self.steps().items()):
            if most is not None and step > most:
                continue
            try:
                self._restore(path)
                return int(self.model.step.numpy())
            except Damage as damage:
                line = f"checkpoint {path} is damaged ({damage})"
                if keep_aside:
                    aside = self._aside(path)
                    self._move(path, aside)
                    line += f": kept aside as {aside.name}"
                tqdm.write(line)
        raise UserError(
            f"no intact checkpoint in {self.folder}: repeat the run in a new --run_dir "
            "(--init_from brings the weights of this one's model/)"
        )

    def _aside(self, path: Path) -> Path:
        names = (f"{path.name}.damaged{n or ''}" for n in range(1000))
        return next(p for p in map(self.folder.joinpath, names) if not p.exists())

    def _restore(self, path: Path) -> None:
        if path.is_dir():
            content = _unseal(path / MANIFEST)
            for name, digest in content["files"].items():
                if not (path / name).exists():
                    raise Damage(f"{name} is missing")
                if _digest(path / name) != digest:
                    raise Damage(f"{name} does not match its checksum")
            self._compare(content["variables"])
            prefix, epoch, data = path / WEIGHTS, content["epoch"], content["data"]
        else:
            self._check_old(path)
            prefix, epoch, data = path, {}, {}
        try:
            status = self._holder.read(str(prefix))
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"the checkpoint {path} is of another architecture or optimizer ({reason}); repeat "
                "the run's flags.txt or take a new --run_dir"
            ) from error
        except tf.errors.OpError as error:
            raise Damage(str(error).strip().splitlines()[0]) from error
        self.epoch, self.saved_data = epoch, data

    def _check_old(self, path: Path) -> None:
        """Reads a checkpoint without manifest to the end: TensorFlow has a checksum per tensor."""
        shapes = self.folder / "variables.json"
        if shapes.exists():
            try:
                self._compare(json.loads(shapes.read_text(encoding="utf-8")))
            except (
                ValueError,
                AttributeError,
                TypeError,
                LookupError,
                OSError,
                RecursionError,
            ) as e:
                if isinstance(e, UserError):
                    raise
                tqdm.write(f"{shapes} is damaged and left out; the checkpoints do not need it")
        try:
            reader = tf.train.load_checkpoint(str(path))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
            raise Damage(str(error).strip().splitlines()[0]) from error

    def _compare(self, saved: Mapping[str, list]) -> None:
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
