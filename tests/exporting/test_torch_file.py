import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.exporting.torch_file import read_torch_checkpoint


class Name:
    """A global of the pickle that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A function of the pickle and its arguments."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class Storage:
    def __init__(self, kind, key, count):
        self.id = ("storage", Name("torch", kind), key, "cpu", count)


class Pickler(pickle._Pickler):
    """Writes pickles as torch.save does, without PyTorch."""

    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def tensor(storage, size, stride, offset=0):
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def write(path, content, storages=(), order=b"little", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", order)
        for key, raw in dict(storages).items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


NUMBERS = np.array([0, 1, -2, 3.5, 100, 7], "f8")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "f8"),
        ("FloatStorage", "f4"),
        ("HalfStorage", "f2"),
        ("LongStorage", "i8"),
        ("IntStorage", "i4"),
        ("ShortStorage", "i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
def test_number_types(path, kind, dtype):
    numbers = np.abs(NUMBERS).astype(dtype)
    content = {"a": tensor(Storage(kind, "0", 6), (2, 3), (3, 1))}
    read = read_torch_checkpoint(write(path, content, {"0": numbers.tobytes()}))["a"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, numbers.reshape(2, 3))


def test_bfloat16_is_exact_in_float32(path):
    halves = (NUMBERS.astype("f4").view("u4") >> 16).astype("u2")
    content = tensor(Storage("BFloat16Storage", "0", 6), (6,), (1,))
    read = read_torch_checkpoint(write(path, content, {"0": halves.tobytes()}))
    assert read.dtype == "float32"
    np.testing.assert_array_equal(read, NUMBERS)


def test_big_endian(path):
    content = tensor(Storage("FloatStorage", "0", 6), (6,), (1,))
    raw = NUMBERS.astype(">f4").tobytes()
    read = read_torch_checkpoint(write(path, content, {"0": raw}, order=b"big"))
    np.testing.assert_array_equal(read, NUMBERS)
    assert read.dtype.isnative


def test_views_of_one_storage(path):
    storage = Storage("DoubleStorage", "7", 6)
    content = OrderedDict(
        whole=tensor(storage, (2, 3), (3, 1)),
        transposed=tensor(storage, (3, 2), (1, 3)),
        tail=tensor(storage, (2,), (2,), offset=3),
        one=tensor(storage, (), (), offset=4),
        none=tensor(storage, (0, 3), (3, 1)),
        parameter=Call(
            Name("torch._utils", "_rebuild_parameter"),
            tensor(storage, (1,), (1,), offset=1),
            True,
            OrderedDict(),
        ),
        nested=[{"step": 3, "betas": (0.9, None), "size": Call(Name("torch", "Size"), [2, 3])}],
    )
    read = read_torch_checkpoint(write(path, content, {"7": NUMBERS.tobytes()}))
    assert isinstance(read, OrderedDict)
    np.testing.assert_array_equal(read["whole"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(read["transposed"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(read["tail"], NUMBERS[[3, 5]])
    assert read["one"].shape == ()
    assert read["one"] == 100
    assert read["none"].shape == (0, 3)
    np.testing.assert_array_equal(read["parameter"], [1])
    assert read["nested"] == [{"step": 3, "betas": (0.9, None), "size": (2, 3)}]
    read["whole"][0, 0] = 9
    assert read["transposed"][0, 0] == 0


class Bomb:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", ["system", "eval", "mkdir", "import"])
def test_a_hostile_pickle_is_refused_and_not_run(path, tmp_path, function, protocol):
    flag = tmp_path / "was_run"
    attack = {
        "system": Bomb(os.system, f"touch {flag}"),
        "eval": Bomb(eval, f"open({str(flag)!r}, 'w')"),
        "mkdir": Bomb(os.mkdir, str(flag)),
        "import": Bomb(__import__, "antigravity"),
    }[function]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": attack}, protocol))
    with pytest.raises(UserError, match="was refused: it asks for") as error:
        read_torch_checkpoint(path)
    assert not flag.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02cbuiltins\nexec\nX\x05\x00\x00\x001 + 1\x85R.",
        b"\x80\x02(X\x02\x00\x00\x00lsios\nsystem\n.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02ctorch\nload\n)R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x00\x85R.",
    ],
    ids=["exec", "inst", "newobj", "extension", "torch.load", "nested"],
)
def test_other_ways_to_call_something_are_refused(path, code):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
    with pytest.raises(UserError, match="was refused"):
        read_torch_checkpoint(path)


STORAGE = Storage("FloatStorage", "0", 4)


@pytest.mark.parametrize(
    "content",
    [
        tensor(STORAGE, (5,), (1,)),
        tensor(STORAGE, (2, 2), (2, 1), offset=1),
        tensor(STORAGE, (2,), (-1,), offset=1),
        tensor(STORAGE, (2,), (1,), offset=-1),
        tensor(STORAGE, (1 << 40,), (0,)),
        tensor(STORAGE, (2, 2), (1,)),
        tensor([1, 2], (2,), (1,)),
        tensor(Storage("FloatStorage", "1", 4), (4,), (1,)),
        tensor(Storage("FloatStorage", "0", 5), (4,), (1,)),
        tensor(Storage("QInt8Storage", "0", 4), (4,), (1,)),
    ],
    ids="long offset backwards before expanded rank storage absent length type".split(),
)
def test_tensors_outside_their_storage_are_refused(path, content):
    write(path, content, {"0": np.zeros(4, "f4").tobytes()})
    with pytest.raises(UserError):
        read_torch_checkpoint(path)


def test_a_memo_number_without_end_takes_no_memory(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".")
    with pytest.raises(UserError, match="memo"):
        read_torch_checkpoint(path)


def test_files_that_are_no_checkpoints(path, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_torch_checkpoint(tmp_path / "absent.ckpt")
    with pytest.raises(UserError, match="cannot read"):
        read_torch_checkpoint(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no PyTorch checkpoint"):
        read_torch_checkpoint(path)
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(UserError, match=r"before 1\.6"):
        read_torch_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(UserError, match=r"no data\.pkl"):
        read_torch_checkpoint(path)
    write(path, {"a": 1}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch_checkpoint(path)


def test_a_file_cut_off_anywhere_gives_one_line(path):
    content = {"a": tensor(Storage("DoubleStorage", "0", 6), (6,), (1,)), "b": list(range(9))}
    whole = write(path, content, {"0": NUMBERS.tobytes()}).read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as error:
            read_torch_checkpoint(path)
        assert "\n" not in str(error.value)


def test_a_changed_byte_is_noticed_or_harmless(path):
    """Whatever is flipped, the reader gives containers or one UserError, never anything else."""
    content = {"a": tensor(Storage("DoubleStorage", "0", 6), (6,), (1,)), "b": [1.5, "x", None]}
    whole = write(path, content, {"0": NUMBERS.tobytes()}).read_bytes()
    messages = []
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_torch_checkpoint(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > len(whole) / 6
    assert not any("\n" in message for message in messages)


def test_a_class_of_lightning_is_its_name(path):
    name = Name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    content = {"callbacks": [(name, {"monitor": None})]}
    read = read_torch_checkpoint(write(path, content))
    assert read["callbacks"] == [(f"{name.module}.{name.name}", {"monitor": None})]
    with pytest.raises(UserError, match="was refused: it asks for a call of pytorch_lightning"):
        read_torch_checkpoint(write(path, {"callbacks": Call(name, "x")}))
