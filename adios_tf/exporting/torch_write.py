"""Writes the files that `torch.load` reads, without PyTorch.

The counterpart of `torch_file`: a zip archive with a pickle (protocol 2) that describes the
containers, and one member per tensor with its raw numbers. The pickle's instructions are
written one by one, since Python's pickler would have to import PyTorch to name its functions.
"""

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from adios_tf.errors import UserError

_STORAGES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


class _Writer:
    """Turns nested containers into a pickle, and collects the arrays it meets."""

    def __init__(self) -> None:
        self.code = bytearray(b"\x80\x02")
        self.arrays: list[np.ndarray] = []

    def put(self, value: Any) -> None:
        if value is None:
            self.code += b"N"
        elif isinstance(value, bool):
            self.code += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            self.code += b"G" + struct.pack(">d", value)
        elif isinstance(value, str):
            raw = value.encode()
            self.code += b"X" + struct.pack("<I", len(raw)) + raw
        elif isinstance(value, np.ndarray):
            self._tensor(value)
        elif isinstance(value, dict):
            self._ordered_dict() if isinstance(value, OrderedDict) else self._add(b"}")
            self._add(b"(")
            for key, item in value.items():
                self.put(key)
                self.put(item)
            self._add(b"u")
        elif isinstance(value, list):
            self._add(b"](")
            for item in value:
                self.put(item)
            self._add(b"e")
        elif isinstance(value, tuple):
            self._tuple(value)
        else:
            raise UserError(f"a PyTorch checkpoint cannot hold a {type(value).__name__}")

    def _add(self, code: bytes) -> None:
        self.code += code

    def _integer(self, value: int) -> None:
        if -(2**31) <= value < 2**31:
            self.code += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.code += b"\x8a" + bytes([len(raw)]) + raw

    def _name(self, module: str, name: str) -> None:
        self.code += f"c{module}\n{name}\n".encode()

    def _ordered_dict(self) -> None:
        self._name("collections", "OrderedDict")
        self._add(b")R")

    def _tuple(self, items: tuple) -> None:
        self._add(b"(")
        for item in items:
            self.put(item)
        self._add(b"t")

    def _tensor(self, array: np.ndarray) -> None:
        kind = _STORAGES.get(array.dtype.str[1:])
        if kind is None:
            raise UserError(f"PyTorch has no tensors of {array.dtype}")
        strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        self._name("torch._utils", "_rebuild_tensor_v2")
        self._add(b"((")
        self.put("storage")
        self._name("torch", kind)
        self.put(str(len(self.arrays)))
        self.put("cpu")
        self.put(array.size)
        self._add(b"tQ")  # a reference to the storage that this tuple describes
        self.put(0)
        self.put(tuple(map(int, array.shape)))
        self.put(tuple(strides))
        self.put(False)
        self._ordered_dict()
        self._add(b"tR")
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
    writer = _Writer()
    writer.put(content)
    writer.code += b"."
    fresh = path.with_name(path.name + ".new")
    root = path.stem or "archive"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{root}/data.pkl", bytes(writer.code))
            archive.writestr(f"{root}/byteorder", b"little")
            for key, array in enumerate(writer.arrays):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                archive.writestr(f"{root}/data/{key}", little.tobytes())
            archive.writestr(f"{root}/version", b"3\n")
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
