"""Image files as they come: kinds of pixels, damage, names, layouts, and what is said of them."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adios_tf.data import checks, describe, folders, image_cache, load_examples
from adios_tf.data.folders import find_images, list_images
from adios_tf.errors import UserError

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
DEEP[0, :4] = 0, 300, 32768, 65535


def noise(path: Path, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def read_pixels(path: Path) -> np.ndarray:
    """Through the check that a run begins with."""
    checks.readable([path], skip_broken=False)
    return folders.read_pixels(path)


def opened(folder: Path, split: str = "train", **options: object):
    return load_examples(describe(str(folder)), split, **options)


def png(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    """A PNG file, its header free to lie."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ---------------------------------------------------------------------- pixels


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF"])
def test_16_bit_gray_is_scaled_by_its_depth(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    Image.fromarray(DEEP).save(file)
    found = [row["image"] for row in opened(tmp_path).dataset.as_numpy_iterator()]
    np.testing.assert_array_equal(found[0], np.dstack([DEEP // 256] * 3))
    assert found[0][0, :4, 0].tolist() == [0, 1, 128, 255]


def test_16_bits_of_other_kinds(tmp_path):
    big = Image.fromarray(DEEP.astype(">u2"))
    assert big.mode == "I;16B"
    big.save(tmp_path / "big.tif")
    np.testing.assert_array_equal(read_pixels(tmp_path / "big.tif")[..., 1], DEEP // 256)
    color = RNG.integers(0, 65536, (3, 4, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in color)
    (tmp_path / "color.png").write_bytes(png(4, 3, 16, 2, rows))
    np.testing.assert_array_equal(read_pixels(tmp_path / "color.png"), color // 256)
    unit = RNG.random((4, 5), np.float32)
    Image.fromarray(unit).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "float.tif")[..., 2], np.rint(unit * 255).astype(np.uint8)
    )
    for name, values, line in (
        ("beyond", unit * 300, "floats beyond"),
        ("nan", unit * np.nan, "floats beyond"),
        ("long", DEEP.astype(np.int32), ".* of 32 bits"),
    ):
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        with pytest.raises(UserError, match=f"{name}.tif \\({line}"):
            read_pixels(tmp_path / f"{name}.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # programs ignore it
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    """At 121 megapixels Pillow only warns, beyond 178 it refuses."""
    for side in (11_000, 60_000):
        (tmp_path / "bomb.png").write_bytes(png(side, side))
        with pytest.raises(UserError, match=r"bomb.png \(more than 67,108,864 pixels\)"):
            read_pixels(tmp_path / "bomb.png")
    monkeypatch.setattr(folders, "MAX_PIXELS", 62)
    noise(tmp_path / "b" / "small.png")
    with pytest.raises(UserError, match="more than 62 pixels"):
        read_pixels(tmp_path / "b" / "small.png")


def test_pillow_is_quiet_in_programs(tmp_path):
    """Its warnings of a bomb, and of damaged EXIF data, are not for users."""
    (tmp_path / "bomb.png").write_bytes(png(11_000, 11_000))
    code = (
        "import sys; from adios_tf.data.folders import read_pixels; print(read_pixels(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, tmp_path / "bomb.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("more than 67,108,864 pixels\n", "")


@pytest.mark.parametrize(
    "raised", [EOFError, MemoryError, IndexError, KeyError, struct.error, zlib.error, TypeError]
)
def test_whatever_pillow_raises(tmp_path, monkeypatch, raised):
    noise(tmp_path / "a.png")

    def load(self: Image.Image):
        raise raised("odd\nthings")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(UserError, match=r"cannot read image .*odd.*things") as caught:
        read_pixels(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


def test_nothing_is_handed_to_other_programs(tmp_path):
    """Pillow gives EPS to Ghostscript, whatever the file is called."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="cannot identify image file"):
        read_pixels(tmp_path / "a.png")


# ---------------------------------------------------------------------- names and layouts


def test_names_that_are_not_utf_8(tmp_path, capsys):
    root = os.fsencode(tmp_path)
    pixels = noise(tmp_path / "b" / "good.png")
    os.mkdir(root + b"/a\xff")
    os.rename(root + b"/b/good.png", root + b"/a\xff/\xfe.png")
    noise(tmp_path / "b" / "other.png")
    examples = opened(tmp_path)
    np.testing.assert_array_equal(next(examples.dataset.as_numpy_iterator())["image"], pixels)
    assert examples.class_names == (r"a\xff", "b")
    with open(root + b"/a\xff/\xfe.png", "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError, match=r"/a\\xff/\\xfe.png ") as caught:
        opened(tmp_path)
    str(caught.value).encode()  # can be printed
    assert folders.shown("a\nb\udcff\x1b.png") == r"a\nb\xff\x1b.png"
    assert folders.shown("Größe 1.png") == "Größe 1.png"


@pytest.mark.parametrize("name", ["r\udcff", "two\nlines"])
def test_the_folder_itself_must_fit_into_flags_txt(tmp_path, name):
    noise(tmp_path / name / "a.png")
    with pytest.raises(UserError, match="link to it") as caught:
        describe(str(tmp_path / name))
    assert str(caught.value).isprintable()


def test_one_numbering_for_all_parts(tmp_path):
    for name in ("train/cat/a", "train/dog/b", "test/dog/c", "test/emu/d"):
        noise(tmp_path / f"{name}.png")
    for split, labels in (("train", [0, 1]), ("test", [1, 2])):
        examples = opened(tmp_path, split)
        assert examples.class_names == ("cat", "dog", "emu")
        assert examples.num_classes == 3
        assert [row["label"] for row in examples.dataset.as_numpy_iterator()] == labels
    noise(tmp_path / "val" / "flat.png")
    assert opened(tmp_path, "val").num_classes == 0
    assert opened(tmp_path, "train").num_classes == 3


def test_hidden_folders_and_files_are_nobodys(tmp_path):
    for name in ("train/cat/a", "train/dog/b", "test/dog/c"):
        noise(tmp_path / f"{name}.png")
    for name in (".thumbs/a", "__MACOSX/train/cat/a", "train/.cache/x", "train/cat/._a"):
        noise(tmp_path / f"{name}.png")
    files, labels, classes = list_images(tmp_path, "train")
    assert [str(f.relative_to(tmp_path)) for f in files] == ["train/cat/a.png", "train/dog/b.png"]
    assert (labels, classes) == ([0, 1], ("cat", "dog"))


def test_a_folder_that_is_divided_in_part(tmp_path):
    for name in ("train/a", "test/b", "extra/c"):
        noise(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="holds test, train and also extra: move that away"):
        list_images(tmp_path, "train")
    (tmp_path / "test" / "b.png").unlink()  # a class may well be called "train"
    assert list_images(tmp_path, "all")[2] == ("extra", "train")


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    noise(tmp_path / "elsewhere" / "a.png")
    noise(tmp_path / "root" / "dog" / "b.png")
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "dog" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere" / "over").symlink_to(tmp_path / "root" / "dog")
    os.mkfifo(tmp_path / "root" / "pipe.png")
    names = [str(f.relative_to(tmp_path / "root")) for f in find_images(tmp_path / "root")]
    assert names == ["cat/a.png", "cat/over/b.png", "dog/b.png"]
    assert list_images(tmp_path / "root", "all")[2] == ("cat", "dog")
    (tmp_path / "root" / "dog" / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"loop.png \(.*symbolic links"):
        opened(tmp_path / "root")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    noise(tmp_path / "a" / "a.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(UserError, match=r"cannot read folder .*/a \(Permission denied\)"):
        list_images(tmp_path, "all")
    (tmp_path / "a").chmod(0o700)


# ---------------------------------------------------------------------- what is said


def test_classes_of_little_use(tmp_path, capsys):
    for name in ("cat/a", "cat/b", "dog/c"):
        noise(tmp_path / "some" / f"{name}.png")
        noise(tmp_path / "one" / "cat" / f"{name[4:]}.png")
    opened(tmp_path / "some")
    assert "1 of 2 classes have one image or none in train, the first is dog" in (
        capsys.readouterr().out
    )
    opened(tmp_path / "one")
    assert "has one class only, cat" in capsys.readouterr().out
    opened(tmp_path / "some", "test")
    assert not capsys.readouterr().out


def test_images_of_one_color_are_counted_once(tmp_path, capsys):
    for name in "ab":
        noise(tmp_path / f"{name}.png")
    for n in (1, 2):
        Image.new("RGB", (40, 30), (n, 2, 3)).save(tmp_path / f"plain{n}.png")
    nearly = Image.new("RGB", (400, 300))
    nearly.putpixel((3, 3), (0, 0, 1))
    nearly.save(tmp_path / "speck.png")
    opened(tmp_path)
    line = f"of one color only: 2 of 5 images, the first is {tmp_path}/plain1.png\n"
    assert capsys.readouterr().out == line
    opened(tmp_path)
    assert not capsys.readouterr().out


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return small.resize((120, 90), Image.Resampling.BICUBIC)


def test_test_images_in_train(tmp_path, capsys, monkeypatch):
    train, test = [], []
    for n in range(40):
        train.append(str(tmp_path / f"train{n}.png"))
        picture(n).save(train[-1])
        test.append(str(tmp_path / f"test{n}.png"))
        picture(100 + n).save(test[-1])
    checks.check_leak(train, test)
    assert not capsys.readouterr().out
    picture(7).save(test[20])
    picture(8).resize((60, 45)).save(tmp_path / "again.jpg", quality=60)
    checks.check_leak(train, [*test, str(tmp_path / "again.jpg")])
    line = f"2 of 41 test images are (almost) the same as training images, such as {test[20]} and "
    assert capsys.readouterr().out.startswith(line + f"{train[7]}: ")
    monkeypatch.setattr(checks, "FULL_CHECK", 39)
    checks.check_leak(train, test)
    assert not capsys.readouterr().out


def test_images_are_decoded_once(tmp_path, monkeypatch):
    noise(tmp_path / "a.png")
    noise(tmp_path / "b.png")
    opened(tmp_path)
    decoded = []
    read = checks.read_pixels
    monkeypatch.setattr(checks, "read_pixels", lambda path: decoded.append(path) or read(path))
    opened(tmp_path)
    assert not decoded
    noise(tmp_path / "b.png", (10, 7))
    opened(tmp_path)
    assert len(decoded) == 1


# ---------------------------------------------------------------------- while it is read


def test_memory_is_estimated_from_all_over_a_folder(tmp_path):
    for n in range(20):
        noise(tmp_path / "a" / f"{n}.png", (2, 2))
        noise(tmp_path / "b" / f"{n}.png", (40, 40))
    assert image_cache.decoded_bytes(opened(tmp_path)) == pytest.approx(20 * 3 * 1604, rel=0.2)


def test_what_breaks_while_it_is_read(tmp_path, capsys):
    pixels = [noise(tmp_path / name / f"{n}.png") for n, name in enumerate("aabb")]
    strict, lenient = opened(tmp_path), opened(tmp_path, skip_broken=True)
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"UserError: cannot read image .*a/1.png"):
        list(strict.dataset)
    for _ in range(2):
        rows = list(lenient.dataset.as_numpy_iterator())
        assert [row["label"] for row in rows] == [0, 1, 1, 1]
        assert [row["index"] for row in rows] == [0, 1, 2, 3]
        np.testing.assert_array_equal(rows[1]["image"], pixels[2])
    told = capsys.readouterr().out
    assert told.startswith("unreadable by now: 1 of 4 images, the last is ")
    assert told.count("\n") == 1
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    with pytest.raises(Exception, match="images in a row cannot be read any more"):
        list(lenient.dataset)
