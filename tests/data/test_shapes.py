"""The embedded data set as TFDS sees it: splits, variants, and where it is put."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from adios_tf.data import describe, load_examples, scenes, shapes
from adios_tf.data.shapes import VARIANTS, exchanged, partners, prepare_shapes
from adios_tf.errors import UserError


def small() -> None:
    shapes.TRAIN_IMAGES = shapes.TEST_IMAGES = shapes._CHUNK = 60


@pytest.fixture
def few(monkeypatch):
    for name in ("TRAIN_IMAGES", "TEST_IMAGES", "_CHUNK"):
        monkeypatch.setattr(shapes, name, 60)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """{split: arrays} of a small version, read through TFDS by name."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRAIN_IMAGES", "TEST_IMAGES", "_CHUNK"):
            patch.setattr(shapes, name, 60)
        prepare_shapes(str(folder))
    loaded = tfds.load("shapes", data_dir=str(folder), download=False)
    return {
        split: next(dataset.batch(1000).as_numpy_iterator()) for split, dataset in loaded.items()
    }


def test_splits_hold_what_was_drawn(prepared):
    assert set(prepared) == {"train", "test", *VARIANTS}
    for stream, split in enumerate(("train", "test")):
        drawn = scenes.draw_scenes(stream, 0, 60, 32)
        found = prepared[split]
        np.testing.assert_array_equal(found["scene"], np.arange(60))
        np.testing.assert_array_equal(found["image"], drawn.compose(drawn.background))
        np.testing.assert_array_equal(found["mask"][..., 0], drawn.mask)
        np.testing.assert_array_equal(found["label"], drawn.label)
        np.testing.assert_array_equal(found["background"], drawn.family)


def test_variants_show_the_objects_of_the_test_scenes(prepared):
    test = prepared["test"]
    inside = scenes.draw_scenes(1, 0, 60, 32).visible[..., 0] == 0
    for split in VARIANTS:
        np.testing.assert_array_equal(prepared[split]["label"], test["label"])
        np.testing.assert_array_equal(prepared[split]["scene"], test["scene"])
    for split in ("test_mixed_same", "test_mixed_rand", "test_only_fg"):
        found = prepared[split]
        np.testing.assert_array_equal(found["mask"], test["mask"])
        np.testing.assert_array_equal(found["image"][inside], test["image"][inside])
        assert (found["image"] != test["image"]).any((1, 2, 3)).all()


def test_variants_show_the_background_they_say(prepared):
    test, drawn = prepared["test"], scenes.draw_scenes(1, 0, 60, 32)
    outside = drawn.visible[..., 0] == 1
    only = prepared["test_only_bg"]
    np.testing.assert_array_equal(only["image"], scenes.to_uint8(drawn.background))
    np.testing.assert_array_equal(only["image"][outside], test["image"][outside])
    assert not only["mask"].any()
    assert not prepared["test_only_fg"]["image"][outside].any()
    assert set(prepared["test_only_fg"]["background"]) == {-1}
    for split, same in (("test_mixed_same", True), ("test_mixed_rand", False)):
        partner = partners(drawn.label, same_class=same)
        found = prepared[split]
        np.testing.assert_array_equal(found["background"], drawn.family[partner])
        theirs = only["image"][partner]
        np.testing.assert_array_equal(found["image"][outside], theirs[outside])


def test_partners():
    label = np.random.default_rng(0).integers(0, 9, 500)
    same, other = partners(label, True), partners(label, False)
    for partner in (same, other):
        assert sorted(partner) == list(range(500))
        assert (partner != np.arange(500)).all()
    assert (label[same] == label).all()
    assert np.mean(label[other] == label) == pytest.approx(1 / 9, abs=0.06)


def test_the_test_split_itself_is_left_alone():
    drawn = scenes.draw_scenes(1, 0, 20, 32)
    assert exchanged(drawn, "test").background is drawn.background


def test_examples_have_masks_and_names(few, tmp_path):
    examples = load_examples(describe("shapes/side64"), "train[:7]", str(tmp_path))
    assert (examples.count, examples.num_classes, examples.has_masks) == (7, 9, True)
    assert examples.class_names == scenes.CLASS_NAMES
    for row in examples.dataset.as_numpy_iterator():
        assert row["image"].shape == (64, 64, 3)
        assert row["mask"].shape == (64, 64)
        assert row["mask"].max() >= 1


def test_two_builds_are_alike_to_the_byte(few, tmp_path):
    files = []
    for name in ("one", "two"):
        builder = prepare_shapes(str(tmp_path / name))
        found = sorted(Path(builder.data_dir).glob("*.tfrecord*"))
        assert len(found) == 2 + len(VARIANTS)
        files.append([file.read_bytes() for file in found])
    assert files[0] == files[1]


def test_what_is_there_is_used(few, tmp_path):
    first = prepare_shapes(str(tmp_path))
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = prepare_shapes(str(tmp_path))
    assert again.data_dir == first.data_dir
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == written


def generate(folder: str, barrier, results) -> None:
    small()
    barrier.wait()
    results.put(prepare_shapes(folder).info.splits["train"].num_examples)


def test_processes_that_start_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=generate, args=(str(tmp_path), barrier, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == [60, 60]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]  # nothing half done is left


def test_the_cache_takes_what_data_dir_cannot(few, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("no folder")
    for data_dir in (None, str(tmp_path / "file")):
        builder = prepare_shapes(data_dir)
        assert Path(builder.data_dir).is_relative_to(tmp_path / "cache" / "adios_tf")
    # A folder that can be written is obeyed, whatever the cache holds.
    builder = prepare_shapes(str(tmp_path / "own"))
    assert Path(builder.data_dir).is_relative_to(tmp_path / "own")


def test_nowhere_to_write(few, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the data set shapes") as caught:
        prepare_shapes(str(tmp_path / "file"))
    assert "--data_dir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_side():
    with pytest.raises(UserError, match="known are side32, side64"):
        prepare_shapes(None, "side48")


def test_the_default_place(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shapes.default_cache() == Path(os.path.expanduser("~/.cache/adios_tf"))
