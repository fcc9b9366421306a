"""Writes the files that `torch.load` reads, without PyTorch.

The counterpart of `torch_file`: a zip archive with a pickle (protocol 2) that describes the
containers, and one member per tensor with its raw numbers.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adios_tf.errors import UserError
from adios_tf.exporting.torch_file import STORAGES

_TYPES = {np.dtype(code): name for name, code in STORAGES.items() if code != "bfloat16"}
_PLAIN = (bool, int, float, str, dict, list, tuple)


class _Name(NamedTuple):
    """Stands for something of PyTorch, which Python's pickler would have to import to name it."""

    module: str
    name: str


class _Reference(NamedTuple):
    """Stands for a storage, by the tuple that describes it."""

    pid: tuple


class _Pickler(pickle._Pickler):
    """Python's pickler, held to plain containers and tensors; it collects the tensors' arrays."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=2)
        self.arrays: list[np.ndarray] = []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Name):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Reference):
            self.save_pers(obj.pid)
        elif isinstance(obj, np.ndarray):
            self._save_tensor(obj)
        elif obj is None or obj is OrderedDict or isinstance(obj, _PLAIN):
            super().save(obj, save_persistent_id)
        else:
            raise UserError(f"a PyTorch checkpoint cannot hold a {type(obj).__name__}")

    def _save_tensor(self, array: np.ndarray) -> None:
        kind = _TYPES.get(array.dtype.newbyteorder("="))
        if kind is None:
            raise UserError(f"PyTorch has no tensors of {array.dtype}")
        key = str(len(self.arrays))
        storage = _Reference(("storage", _Name("torch", kind), key, "cpu", array.size))
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        self.save(_Name("torch._utils", "_rebuild_tensor_v2"))
        self.save((storage, 0, array.shape, strides, False, OrderedDict()))
        self.write(pickle.REDUCE)
        self.arrays.append(array)


def write_torch_checkpoint(path: str | Path, content: Any) -> Path:
    """Writes nested containers of NumPy arrays as `torch.save` would; `torch.load` reads them.

    Args:
      path: the file; an older one is replaced once the new one is complete.
      content: dict, OrderedDict, list, tuple, str, int, float, bool, None and arrays.

    Returns:
      The path.

    Raises:
      UserError: something else in the content, or a place that cannot be written.
    """
    path = Path(path)
    code = io.BytesIO()
    pickler = _Pickler(code)
    pickler.dump(content)
    fresh = path.with_name(path.name + ".new")
    root = path.stem or "archive"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{root}/data.pkl", code.getvalue())
            archive.writestr(f"{root}/byteorder", b"little")
            for key, array in enumerate(pickler.arrays):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                archive.writestr(f"{root}/data/{key}", little.tobytes())
            archive.writestr(f"{root}/version", b"3\n")
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
