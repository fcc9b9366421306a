"""What is known of a data set before it is opened."""

import pytest

from adios_tf.data import CATALOG, describe
from adios_tf.errors import UserError


def test_every_entry_is_complete():
    for name, info in CATALOG.items():
        assert info.name == name
        assert info.tfds_name
        assert not info.folder
        assert info.image_size >= 32
        assert len(info.mean) == len(info.std) == 3
        assert all(0 <= m < 1 for m in info.mean)
        assert all(0 < s <= 1 for s in info.std)
        assert info.line
        assert "\n" not in info.line


@pytest.mark.parametrize(
    ("name", "size", "classes", "std", "splits"),
    [
        ("shapes", 32, None, 0.25, ("train", "test")),
        ("cifar10", 32, 10, 0.247, ("train", "test")),
        ("cifar100", 32, 100, 0.247, ("train", "test")),
        ("stl10", 96, 10, 0.247, ("train+unlabeled", "test")),
        ("tiny_imagenet_200", 64, 200, 0.277, ("train", "test")),
        ("imagenet100s", 96, 100, 0.228, ("train", "validation")),
        ("imagenet100", 224, 100, 0.228, ("train", "validation")),
    ],
)
def test_facts_of_the_published_data_sets(name, size, classes, std, splits):
    info = describe(name)
    assert (info.image_size, info.num_classes, info.std[0]) == (size, classes, std)
    assert (info.train_split, info.test_split) == splits


def test_labeled_part_of_stl10():
    assert describe("stl10").label_train_split == "train"


def test_imagenet100_is_the_same_hundred_classes_of_imagenet_at_two_sizes():
    large, small = describe("imagenet100"), describe("imagenet100s")
    assert large.tfds_name == small.tfds_name == "imagenet2012"
    assert large.keep_classes == small.keep_classes
    assert len(set(large.keep_classes)) == 100
    assert all(name.startswith("n") and name[1:].isdigit() for name in large.keep_classes)


def test_the_side_can_be_chosen():
    assert describe("cifar10", 64).image_size == 64
    assert describe("cifar10", 0).image_size == 32
    assert CATALOG["cifar10"].image_size == 32


def test_folders(tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in (str(pictures), f"folder:{pictures}"):
        info = describe(name, 48)
        assert (info.folder, info.tfds_name, info.image_size) == (str(pictures), "", 48)
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "./pictures", "folder:pictures"):
        assert describe(name).folder == "pictures"
    # A catalog name stays one even where a folder is called so.
    (tmp_path / "cifar10").mkdir()
    assert not describe("cifar10").folder
    assert describe("./cifar10").folder == "cifar10"


@pytest.mark.parametrize("name", ["./gone", "/nowhere/at/all", "folder:gone", "~/gone-for-sure"])
def test_a_folder_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        describe(name)


def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--dataset"):
        describe("")


@pytest.mark.parametrize("name", ["mnist", "imagenet_resized/8x8"])
def test_any_other_name_is_left_to_tfds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    info = describe(name)
    assert (info.tfds_name, info.folder) == (name, "")
