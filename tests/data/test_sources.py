"""Opening data: folders of images, prepared TFDS data sets, and what is said when it fails."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from adios_tf.data import describe, load_examples
from adios_tf.errors import UserError


def save(
    path: Path, seed: int = 0, size: tuple[int, int] = (9, 7), **options: object
) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def opened(folder: Path, split: str = "train", **options: object):
    return load_examples(describe(str(folder)), split, **options)


def rows(examples) -> list[dict]:
    found = list(examples.dataset.as_numpy_iterator())
    assert len(found) == examples.count
    assert [row["index"] for row in found] == list(range(len(found)))
    for row in found:
        assert row["image"].dtype == np.uint8
        assert row["label"].dtype == np.int64
    return found


def relative(examples, folder: Path) -> list[str]:
    return [str(Path(name).relative_to(folder)) for name in examples.files]


@pytest.fixture
def classes(tmp_path):
    """Two classes of five images of different sizes, written in no order."""
    pixels = {}
    for n, (name, index) in enumerate(itertools.product(("zebra", "ant"), (3, 0, 4, 1, 2))):
        file = f"{name}/{index}.png"
        pixels[file] = save(tmp_path / file, n, (5 + n, 8))
    return tmp_path, pixels


# ---------------------------------------------------------------------- folders


def test_folders_are_labels_and_files_are_sorted(classes):
    folder, pixels = classes
    examples = opened(folder)
    assert (examples.count, examples.num_classes) == (10, 2)
    assert examples.class_names == ("ant", "zebra")
    assert not examples.has_masks
    names = relative(examples, folder)
    assert names == sorted(pixels)
    for name, row in zip(names, rows(examples), strict=True):
        np.testing.assert_array_equal(row["image"], pixels[name])
        assert row["label"] == ("ant", "zebra").index(name.split("/")[0])


def test_a_flat_folder_has_no_labels(tmp_path):
    for n in range(3):
        save(tmp_path / f"{n}.png", n)
    examples = opened(tmp_path)
    assert (examples.count, examples.num_classes, examples.class_names) == (3, 0, ())
    assert [row["label"] for row in rows(examples)] == [-1] * 3


def test_one_image_beside_the_folders_and_nothing_is_labeled(classes):
    folder, _ = classes
    save(folder / "stray.png")
    examples = opened(folder)
    assert (examples.count, examples.num_classes) == (11, 0)
    assert {row["label"] for row in rows(examples)} == {-1}


def test_every_kind_of_file(tmp_path):
    pixels = save(tmp_path / "a.PNG")
    for ending in ("bmp", "gif", "jpeg", "jpg", "webp"):
        save(tmp_path / f"b.{ending}")
    gray = np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8)
    Image.fromarray(gray).save(tmp_path / "c.png")
    Image.fromarray(np.dstack([pixels, np.full((9, 7), 200, np.uint8)])).save(tmp_path / "d.png")
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "e.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "notes.txt").write_text("not an image")
    found = rows(opened(tmp_path))
    assert len(found) == 9
    np.testing.assert_array_equal(found[0]["image"], pixels)
    np.testing.assert_array_equal(found[6]["image"], np.dstack([gray] * 3))
    np.testing.assert_array_equal(found[7]["image"], pixels)
    assert found[8]["image"].reshape(-1, 3).mean(0).round().tolist() == [255, 0, 0]


def test_photographs_are_turned_the_right_way_up(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    pixels = save(tmp_path / "a.png", size=(4, 6), exif=exif)
    np.testing.assert_array_equal(rows(opened(tmp_path))[0]["image"], np.rot90(pixels, -1))


def test_splits_of_a_divided_folder(tmp_path):
    for part, name in itertools.product(("train", "test"), ("cat", "dog")):
        for n in range(3 if part == "train" else 2):
            save(tmp_path / part / name / f"{n}.png")
    train, test = opened(tmp_path, "train"), opened(tmp_path, "test")
    assert (train.count, test.count) == (6, 4)
    assert train.class_names == test.class_names == ("cat", "dog")
    assert all(name.startswith("train/") for name in relative(train, tmp_path))
    assert [row["label"] for row in rows(test)] == [0, 0, 1, 1]
    assert opened(tmp_path, "test[:1]").count == 1


@pytest.mark.parametrize(
    ("split", "kept"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[7:]", range(7, 10)),
        ("train[2:5]", range(2, 5)),
        ("train[:90%]", range(9)),
        ("train[25%:75%]", range(2, 8)),
        ("train[-2:]", range(8, 10)),
        ("anything[:100%]", range(10)),
    ],
)
def test_a_part_of_a_folder(classes, split, kept):
    folder, pixels = classes
    examples = opened(folder, split)
    assert relative(examples, folder) == [sorted(pixels)[n] for n in kept]
    labels = [row["label"] for row in rows(examples)]
    assert labels == [int(n >= 5) for n in kept]
    assert examples.num_classes == 2


@pytest.mark.parametrize("split", ["train[10%]", "train[a:b]", "train[:5]+train[7:]", "train[::2]"])
def test_a_part_that_cannot_be_read(classes, split):
    with pytest.raises(UserError, match="FROM:TO"):
        opened(classes[0], split)


def test_an_empty_part(classes):
    with pytest.raises(UserError, match="empty"):
        opened(classes[0], "train[20:]")


def test_a_limit_is_spread_over_the_classes(classes):
    folder, pixels = classes
    examples = opened(folder, limit=4)
    assert relative(examples, folder) == [sorted(pixels)[n] for n in (0, 2, 5, 7)]
    assert [row["label"] for row in rows(examples)] == [0, 0, 1, 1]
    assert opened(folder, limit=99).count == 10


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(UserError, match="holds no images"):
        opened(tmp_path)


def broken_file(folder: Path, kind: str) -> Path:
    file = folder / "ant" / "1.png"
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "text": b"<html>404</html>",
            "truncated": whole[: len(whole) // 2],
            "damaged": whole[:60] + b"\0" * 20 + whole[80:],
        }[kind]
    )
    return file


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "damaged"])
def test_an_unreadable_image_is_named(classes, kind):
    file = broken_file(classes[0], kind)
    with pytest.raises(UserError) as caught:
        opened(classes[0])
    assert str(file) in str(caught.value)
    assert "--skip_broken" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skipped_images_are_counted(classes, capsys):
    folder, pixels = classes
    file = broken_file(folder, "truncated")
    (folder / "zebra" / "0.png").write_bytes(b"")
    examples = opened(folder, skip_broken=True)
    assert f"left out 2 unreadable images, the first is {file}" in capsys.readouterr().out
    wanted = [name for name in sorted(pixels) if name not in ("ant/1.png", "zebra/0.png")]
    assert relative(examples, folder) == wanted
    found = rows(examples)
    assert [row["label"] for row in found] == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(found[1]["image"], pixels["ant/2.png"])


def test_nothing_readable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the"):
        opened(tmp_path, skip_broken=True)


# ---------------------------------------------------------------------- TFDS


def test_real_cifar10(real_images):
    examples = load_examples(describe("cifar10"), "test", str(real_images), limit=5)
    assert (examples.count, examples.num_classes, examples.has_masks) == (5, 10, False)
    assert examples.class_names[:2] == ("airplane", "automobile")
    found = rows(examples)
    theirs = tfds.load("cifar10", split="test", data_dir=str(real_images)).take(5)
    for row, same in zip(found, theirs.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(row["image"], same["image"])
        assert row["label"] == same["label"]
    assert all(row["image"].shape == (32, 32, 3) for row in found)
    again = rows(load_examples(describe("cifar10"), "test[2:4]", str(real_images)))
    for row, same in zip(again, found[2:4], strict=True):
        np.testing.assert_array_equal(row["image"], same["image"])


@pytest.mark.parametrize(
    ("name", "largest"), [("nuclei_dsb2018", 400), ("weizmann_horses", 1), ("camvid_240x180", 11)]
)
def test_real_masks(real_images, name, largest):
    examples = load_examples(describe(name), "test", str(real_images), limit=3)
    assert examples.has_masks
    assert examples.num_classes == 0
    for row in rows(examples):
        assert row["label"] == -1
        assert row["mask"].dtype == np.int32
        assert row["mask"].shape == row["image"].shape[:2]
        assert 0 <= row["mask"].min() < row["mask"].max() <= largest


def test_a_class_list_restricts_and_relabels(real_images, tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("ship\ncat\n")
    options = {"data_dir": str(real_images), "class_list": str(file)}
    examples = load_examples(describe("cifar10"), "test[:50]", **options)
    whole = rows(load_examples(describe("cifar10"), "test[:50]", str(real_images)))
    kept = [row for row in whole if row["label"] in (3, 8)]
    assert (examples.num_classes, examples.class_names) == (2, ("ship", "cat"))
    found = rows(examples)
    assert [int(row["label"]) for row in found] == [int(row["label"] == 3) for row in kept]
    for row, same in zip(found, kept, strict=True):
        np.testing.assert_array_equal(row["image"], same["image"])
    assert load_examples(describe("cifar10"), "test[:50]", limit=2, **options).count == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cifar10", "ship\nspaceship\n", "spaceship"),
        ("cifar10", "\n", "class_list"),
        ("cifar10", None, "is not a file"),
        ("weizmann_horses", "ship\n", "labels"),
    ],
)
def test_class_lists_that_do_not_fit(real_images, tmp_path, name, text, told):
    file = tmp_path / "classes.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=told):
        load_examples(describe(name), "test", str(real_images), class_list=str(file))


def test_an_unknown_split_lists_the_known(real_images):
    with pytest.raises(UserError, match=r"no split 'trian': known are .*train"):
        load_examples(describe("cifar10"), "trian", str(real_images))
    with pytest.raises(UserError, match=r"empty|no split"):
        load_examples(describe("cifar10"), "test[:0]", str(real_images))


def test_not_prepared_data_name_the_flag(tmp_path):
    """Nothing is downloaded unasked, and --data_dir is told."""
    with pytest.raises(UserError, match=r"not prepared.*--data_dir"):
        load_examples(describe("cifar100"), "train", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_data_dir_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        load_examples(describe("cifar10"), "train", str(tmp_path / "gone"))


@pytest.mark.parametrize(("name", "near"), [("cifra10", "cifar10"), ("shape", "shapes")])
def test_unknown_data_sets_get_a_suggestion(name, near, tmp_path):
    with pytest.raises(UserError, match=f"unknown data set '{name}': did you mean '{near}'"):
        load_examples(describe(name), "train", str(tmp_path))
