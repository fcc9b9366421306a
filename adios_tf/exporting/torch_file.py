"""Reads and writes the files of `torch.save`, without PyTorch and without running what is in them.

Such a file is a zip archive: a pickle that describes nested containers, and one member per
storage with the raw numbers. A pickle can call any function on the machine, so this one is read
by an unpickler that knows the handful of names a checkpoint of tensors needs, and no others.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adios_tf.errors import UserError

# bfloat16 has no NumPy type; its 16 bits are the upper half of a float32.
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# What PyTorch itself writes for containers, numbers, strings and tensors (pickle protocol 2).
# Left out are all that make objects by other ways than a call of a listed name.
_OPCODES = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT "
    "BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES EMPTY_DICT DICT EMPTY_LIST LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_SET ADDITEMS APPEND APPENDS SETITEM SETITEMS POP POP_MARK DUP GET BINGET "
    "LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE FRAME GLOBAL BINPERSID REDUCE BUILD".split()
)


class _Storage(NamedTuple):
    """A run of numbers in the archive."""

    values: np.ndarray


class _StorageType(NamedTuple):
    """Stands for one of PyTorch's storage classes in the pickle."""

    dtype: str


class _Rebuild:
    """Stands for PyTorch's functions that make a tensor: a view of a storage, copied."""

    __slots__ = ()

    def __call__(
        self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any
    ) -> np.ndarray:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor of impossible shape")
        values, count = storage.values, math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # Strides of 0 could blow a small storage up to any size.
        if count and (last >= values.size or count > values.size):
            raise pickle.UnpicklingError("a tensor larger than its storage")
        if not count:
            return np.empty(size, values.dtype)
        view = np.lib.stride_tricks.as_strided(
            values[offset:], size, [step * values.itemsize for step in stride]
        )
        return np.array(view, order="C")


class _RebuildParameter:
    """Stands for PyTorch's function that marks a tensor as trainable."""

    __slots__ = ()

    def __call__(self, data: np.ndarray, *_: Any) -> np.ndarray:
        return data


class _Word(str):
    """Stands for a class of Lightning 1.4, which files its callbacks' states under their classes.

    It is the class's name and nothing more: calling it is refused.
    """

    __slots__ = ()

    def __call__(self, *_: Any) -> None:
        raise _RefusedError(f"a call of {self}")


class _Unpickler(pickle.Unpickler):
    """Unpickles containers and tensors; every other name is refused before it is looked up."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        data = archive.read(f"{root}data.pkl")
        _check_opcodes(data)
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._archive = archive
        self._root = root
        self._order = "<"
        if f"{root}byteorder" in archive.namelist():
            self._order = {b"little": "<", b"big": ">"}[archive.read(f"{root}byteorder")]
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
            ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        }
        if module.startswith("pytorch_lightning."):
            return _Word(f"{module}.{name}")
        if (module, name) not in known:
            raise _RefusedError(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        word, kind, key, _, count = pid
        if word != "storage" or not isinstance(kind, _StorageType):
            raise pickle.UnpicklingError("an unknown reference")
        if key not in self._storages:
            raw, half = self._archive.read(f"{self._root}data/{key}"), kind.dtype == "bfloat16"
            stored = np.dtype("u2" if half else kind.dtype)
            values = np.frombuffer(raw, stored.newbyteorder(self._order)).astype(stored)
            values = (values.astype("u4") << 16).view("f4") if half else values
            self._storages[key] = _Storage(values)
        storage = self._storages[key]
        if storage.values.size != count:
            raise pickle.UnpicklingError(f"storage {key} has another length than it should")
        return storage


def _check_opcodes(data: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise _RefusedError(f"the pickle instruction {opcode.name}")
        # The unpickler would set aside as much memory as a memo number asks for.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(data):
            raise pickle.UnpicklingError("a memo number without end")


class _RefusedError(Exception):
    """The pickle asks for a name that a checkpoint of tensors does not need."""


def read_torch_checkpoint(path: str | Path) -> Any:
    """Reads a file of `torch.save` (PyTorch 1.6 or later): nested containers of NumPy arrays.

    Tensors become arrays of their own memory, bfloat16 as float32 (exact), parameters as plain
    tensors, Lightning's callback classes their names. Nothing in the file is ever called.
    `UserError` where there is no such file, another or a damaged format, or a pickle that asks for
    anything but tensors and containers.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except _RefusedError as error:
        raise UserError(
            f"{path} was refused: it asks for {error}, which no checkpoint of tensors needs; "
            "save its state_dict alone, from a source that you trust"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a hostile or damaged file can raise anything
        with path.open("rb") as file:
            bare = file.read(2) == b"\x80\x02"  # a pickle of protocol 2, in no archive
        if isinstance(error, zipfile.BadZipFile) and bare:
            raise UserError(
                f"{path} has the format of PyTorch before 1.6: load and save it again there"
            ) from error
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no PyTorch checkpoint, or a damaged one: {words}") from error


def _read(archive: zipfile.ZipFile) -> Any:
    names = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise pickle.UnpicklingError("the archive holds no data.pkl")
    if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
        raise pickle.UnpicklingError("the archive is compressed, which PyTorch's never are")
    return _Unpickler(archive, names[0].removesuffix("data.pkl")).load()


_STORAGE_NAMES = {np.dtype(code): name for name, code in _STORAGES.items() if code != "bfloat16"}
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
        kind = _STORAGE_NAMES.get(array.dtype.newbyteorder("="))
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

    They may be dict, OrderedDict, list, tuple, str, int, float, bool, None and arrays. An older
    file is replaced once the new one is complete. Returns the path; `UserError` for something else
    in the content, or a place that cannot be written.
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
