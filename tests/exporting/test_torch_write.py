import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.exporting.torch_file import read_torch_checkpoint, write_torch_checkpoint


def test_what_is_written_reads_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    content = {
        "epoch": 3,
        "big": -(2**40),
        "rate": 0.1,
        "on": True,
        "off": False,
        "none": None,
        "name": "αβ",
        "list": [1, (2, "x"), {}],
        "state_dict": OrderedDict(
            (dtype, (rng.normal(size=(2, 3, 4)) * 9).astype(dtype))
            for dtype in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")
        ),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "strided": np.arange(12, dtype="f4").reshape(3, 4).T,
        "big_endian": np.arange(3, dtype=">f4"),
    }
    path = write_torch_checkpoint(tmp_path / "x.ckpt", content)
    read = read_torch_checkpoint(path)
    assert list(read) == list(content)
    assert isinstance(read["state_dict"], OrderedDict)
    arrays = {**read.pop("state_dict")}
    expected = {**content.pop("state_dict")}
    for name in ("scalar", "empty", "strided", "big_endian"):
        arrays[name], expected[name] = read.pop(name), content.pop(name)
    assert read == content
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(arrays[name], array)


def test_the_archive_is_laid_out_as_pytorch_lays_it_out(tmp_path):
    path = write_torch_checkpoint(tmp_path / "x.ckpt", {"a": np.ones(2, np.float32)})
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"x/data.pkl", "x/byteorder", "x/data/0", "x/version"}
        assert all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
        code = archive.read("x/data.pkl")
    names = [arg for op, arg, _ in pickletools.genops(code) if op.name == "GLOBAL"]
    assert names == [
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    ]


def test_what_pytorch_cannot_hold_is_refused(tmp_path):
    for value in (np.array(["a"]), np.zeros(2, np.complex64), object(), b"raw"):
        with pytest.raises(UserError, match="PyTorch"):
            write_torch_checkpoint(tmp_path / "x.ckpt", {"a": value})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_torch_checkpoint(tmp_path / "file" / "x.ckpt", {})
