"""The versions of a model, laid out as TensorFlow Serving reads them: MODEL/1, MODEL/2, ..."""

import asyncio
import contextlib
import gc
import io
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.exporting import rest
from adios_tf.exporting.batching import Batcher
from adios_tf.exporting.reference_set import ReferenceSet

Embed = Callable[[np.ndarray], dict[str, np.ndarray]]


class Version(NamedTuple):
    """A SavedModel that answers: its signatures, the queue before each, and the reference set."""

    signatures: Mapping[str, rest.Signature]
    batchers: Mapping[str, Batcher]
    reference: ReferenceSet | None


def load_version(
    folder: Path,
    batched: Callable[[Embed], Batcher],
    reference: Callable[[Embed], ReferenceSet] | None,
) -> Version:
    """Loads a SavedModel and tries it on one image.

    Args:
      folder: of the SavedModel.
      batched: makes the queue in front of a signature.
      reference: embeds the reference set with this version, if there is one.

    Raises:
      UserError: it cannot be loaded, is no export of bin/export.py, or does not answer.
    """
    try:
        signatures = rest.load_signatures(folder)
    except UserError:
        raise
    except Exception as error:  # damaged files raise whatever their reading ran into
        raise UserError(f"cannot read the SavedModel {folder} ({rest.reason(error)})") from error
    if "embed_bytes" not in signatures:
        raise UserError(f"{folder} has no embed_bytes: export it with {program('export')}")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 150)).save(buffer, "PNG")
    for name in filter(lambda name: name.endswith("_bytes"), signatures):
        try:
            answer = signatures[name].call(np.array([buffer.getvalue()], object))
        except tf.errors.OpError as error:
            raise UserError(f"{folder}: {name} fails ({rest.reason(error)})") from error
        if not all(np.isfinite(values).all() for values in answer.values()):
            raise UserError(f"{folder}: {name} gives numbers that are not finite")
    batchers = {name: batched(signature.call) for name, signature in signatures.items()}
    return Version(signatures, batchers, reference and reference(signatures["embed_bytes"].call))


class Versions:
    """The newest version of a model that can be served, as `current`: (number, version).

    Args:
      folder: of a SavedModel, or of folders of it whose names are numbers.
      load: see `load_version`.

    Raises:
      UserError: there is no version that can be served.
    """

    def __init__(self, folder: Path | str, load: Callable[[Path], Version]):
        self._folder, self._load = Path(folder).expanduser(), load
        self.states: dict[int, tuple[str, str]] = {}  # number: (state, error)
        self._seen: dict[int, list] = {}
        self._failed: dict[int, list] = {}
        self._fixed = (self._folder / "saved_model.pb").exists()
        if self._fixed:
            named = re.fullmatch("[0-9]{1,18}", self._folder.name)
            self.current = (int(named[0]) if named else 1, load(self._folder))
            self.states[self.current[0]] = ("AVAILABLE", "")
        else:
            self.refresh(first=True)

    def refresh(self, first: bool = False) -> None:
        """Takes the newest folder that holds still, can be loaded, and answers.

        One that cannot is named once, and tried again when a file in it has changed.
        """
        found = [path for path in self._folder.glob("*") if re.fullmatch("[0-9]{1,18}", path.name)]
        for folder in sorted(found, key=lambda path: -int(path.name)):
            number = int(folder.name)
            if not first and number == self.current[0]:
                return
            files = sorted(folder.rglob("*"))
            content = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            if self._failed.get(number) == content:
                continue
            if not first and self._seen.get(number) != content:
                self._seen[number] = content
                return  # it may still be written to
            self.states[number] = ("LOADING", "")
            try:
                version = self._load(folder)
            except UserError as error:
                self._failed[number], self.states[number] = content, ("END", str(error))
                print(f"version {number} is left out: {error}", flush=True)
                continue
            if not first:
                self.states[self.current[0]] = ("END", "")
                print(f"version {number} is served in place of {self.current[0]}", flush=True)
            self.current, self.states[number] = (number, version), ("AVAILABLE", "")
            gc.collect()  # the graph of the one before refers to itself
            return
        if first:
            raise UserError(
                f"no SavedModel in {self._folder} that can be served: name a folder written by "
                f"{program('export')} --out, or one of such folders named 1, 2, ..."
            )

    async def watch(self, seconds: float) -> None:
        """Looks for a new version every so many seconds."""
        # Always the same thread: the memory of each that has loaded a model stays with it.
        pool = ThreadPoolExecutor(1, "versions")
        try:
            while not self._fixed:
                await asyncio.sleep(seconds)
                with contextlib.suppress(OSError):  # a folder went away while it was looked at
                    await asyncio.get_running_loop().run_in_executor(pool, self.refresh)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
