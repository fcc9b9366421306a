"""Batches for training and evaluation: complete, repeatable to the bit, resumable anywhere."""

import dataclasses
import functools
import itertools
import time

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.data import (
    AugmentConfig,
    augment,
    describe,
    evaluation_dataset,
    evaluation_transform,
    image_cache,
    load_examples,
    normalize,
    pipeline,
    pretrain_dataset,
    throughput,
    views_from_images,
)
from adios_tf.data.sources import Encoded, Examples
from adios_tf.errors import UserError

COUNT, BATCH = 23, 4
STEPS = COUNT // BATCH
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
FIRST = AugmentConfig(12, min_scale=0.3)
SECOND = AugmentConfig(12, min_scale=0.2, solarize_prob=0.5, blur_prob=0.2)
# Where colors do not matter: its graph is built in a fraction of the time.
PLAIN = AugmentConfig(12, min_scale=0.3, jitter_prob=0, gray_prob=0, blur_prob=0)
PATHS = [(alike, cache) for alike in (True, False) for cache in ("yes", "no")]


def pictures(alike: bool, count: int = COUNT) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    sides = [(10, 14) if alike else (8 + n % 5, 9 + n % 7) for n in range(count)]
    images = [rng.integers(0, 256, (*side, 3), np.uint8) for side in sides]
    return images, [rng.integers(0, 4, side).astype(np.int32) for side in sides]


def made(alike: bool = True, masked: bool = True, seen: list | None = None) -> Examples:
    """Examples in memory; the indices of what is decoded are appended to `seen`."""
    images, masks = pictures(alike)
    shape = images[0].shape if alike else (None, None, 3)

    def look(index: np.int64) -> tuple[np.ndarray, np.ndarray]:
        if seen is not None:
            seen.append(int(index))
        return images[index], masks[index]

    def decode(one: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = one["index"]
        image, mask = tf.numpy_function(look, [index], (tf.uint8, tf.int32))
        found = {"image": tf.ensure_shape(image, shape), "label": index * 10, "index": index}
        return found | ({"mask": tf.ensure_shape(mask, shape[:2])} if masked else {})

    encoded = tf.data.Dataset.range(COUNT).map(lambda index: {"index": index})
    decoded = encoded.map(decode)
    return Examples(
        decoded, COUNT, 1000, has_masks=masked, encoded=Encoded(encoded, decode, decoded)
    )


def stream(examples: Examples, count: int, **options: object) -> list[dict[str, np.ndarray]]:
    given = {"batch_size": BATCH, "first": PLAIN, "second": PLAIN, "seed": 5} | options
    dataset = pretrain_dataset(examples, mean=MEAN, std=STD, **given)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@pytest.fixture(scope="module")
def whole() -> dict[tuple[bool, str], list[dict]]:
    """Three epochs by every path."""
    options = {"first": FIRST, "second": SECOND}
    return {
        (alike, cache): stream(made(alike), 3 * STEPS, cache=cache, **options)
        for alike, cache in PATHS
    }


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_is_what_it_should_be(whole, path):
    for batch in whole[path][:3]:
        for view in ("view1", "view2"):
            assert batch[view].shape == (BATCH, 12, 12, 3)
            assert batch[view].dtype == np.float32
        for mask in ("mask1", "mask2"):
            assert batch[mask].shape == (BATCH, 12, 12)
            assert batch[mask].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], batch["index"] * 10)
        assert batch["label"].dtype == batch["index"].dtype == np.int64


@pytest.mark.parametrize("path", PATHS)
def test_an_epoch_shows_every_image_at_most_once(whole, path):
    orders = np.reshape([batch["index"] for batch in whole[path]], [3, -1])
    for order in orders:
        assert len(set(order)) == len(order) == STEPS * BATCH
        assert set(order) <= set(range(COUNT))
    assert len({tuple(order) for order in orders}) == 3
    assert not any((np.diff(order) == 1).all() for order in orders)


@pytest.mark.parametrize("path", PATHS)
def test_views_are_functions_of_seed_epoch_index_and_view(whole, path):
    """Each view is `augment` with a seed of its own, in whatever batch it comes."""
    images, masks = pictures(path[0])
    for step in (2, STEPS + 1):
        epoch, batch = step // STEPS, whole[path][step]
        for view, config in ((1, FIRST), (2, SECOND)):
            for row, index in enumerate(batch["index"]):
                seed = [(5 * 1_000_003 + epoch) * 2 + view - 1, index]
                wanted, mask = augment(
                    tf.constant(images[index]),
                    tf.constant(seed, tf.int64),
                    config,
                    tf.constant(masks[index]),
                )
                close = np.isclose(batch[f"view{view}"][row], normalize(wanted, MEAN, STD), 0, 1e-4)
                assert close.mean() > 0.99  # rounding may tip single pixels over to be solarized
                np.testing.assert_array_equal(batch[f"mask{view}"][row], mask)


def test_views_made_at_once_are_those_made_one_by_one():
    """Equal settings make both views in one go; the sigma of a blur that never comes parts them."""
    other = dataclasses.replace(PLAIN, max_sigma=1.0)
    together = stream(made(), 2)
    apart = stream(made(), 2, second=other)
    for one, two in zip(together, apart, strict=True):
        assert not np.array_equal(one["view1"], one["view2"])
        for name in ("view1", "view2"):
            np.testing.assert_allclose(one[name], two[name], atol=1e-5)
        for name in ("mask1", "mask2", "label", "index"):
            np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("alike", [True, False])
def test_holding_images_changes_no_view(whole, alike):
    held, read = (
        {
            int(index): view
            for batch in whole[alike, cache][:STEPS]
            for index, view in zip(batch["index"], batch["view2"], strict=True)
        }
        for cache in ("yes", "no")
    )
    assert len(held.keys() & read.keys()) > COUNT / 2
    for index in held.keys() & read.keys():
        np.testing.assert_array_equal(held[index], read[index])


@pytest.mark.parametrize(("alike", "cache"), [(True, "yes"), (False, "no")])
def test_another_seed_gives_another_order_and_other_views(alike, cache):
    one, same, other = (stream(made(alike), 2, cache=cache, seed=s) for s in (5, 5, 6))
    assert_same(one, same)
    assert not np.array_equal(one[0]["index"], other[0]["index"])
    assert not np.array_equal(one[0]["view1"], one[0]["view2"])


@functools.cache
def plain(alike: bool, cache: str) -> list[dict[str, np.ndarray]]:
    return stream(made(alike), 2 * STEPS + 1, cache=cache)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (1, STEPS - 1)])
def test_a_resumed_stream_is_the_tail_of_the_whole(path, epoch, step):
    alike, cache = path
    rest = plain(alike, cache)[epoch * STEPS + step :]
    resumed = stream(made(alike), len(rest), cache=cache, start_epoch=epoch, start_step=step)
    assert_same(resumed, rest)


def test_a_resumed_stream_has_the_colors_of_the_whole(whole):
    options = {"first": FIRST, "second": SECOND, "start_epoch": 1, "start_step": 3}
    for path in ((True, "yes"), (False, "no")):
        rest = whole[path][STEPS + 3 :]
        assert_same(stream(made(path[0]), len(rest), cache=path[1], **options), rest)


@pytest.mark.parametrize("alike", [True, False])
def test_what_is_skipped_is_not_decoded(alike):
    whole = stream(made(alike), STEPS, cache="no")
    skipped = set(np.concatenate([batch["index"] for batch in whole[:4]]))
    seen: list[int] = []
    dataset = pretrain_dataset(
        made(alike, seen=seen), BATCH, PLAIN, PLAIN, MEAN, STD, 5, start_step=4, cache="no"
    )
    first = next(iter(dataset.as_numpy_iterator()))
    assert set(first["index"]) <= set(seen)
    # The next epoch may be under way already: only its first images can be among the skipped.
    assert seen[: COUNT - 4 * BATCH]
    assert not skipped & set(seen[: COUNT - 4 * BATCH])


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["yes", "no"])
def test_a_million_images_are_resumed_at_once(cache, monkeypatch):
    """After a million updates, in the middle of an epoch: what is skipped costs next to nothing."""
    images, batch = 1_000_000, 96
    epoch, step = divmod(1_006_000, images // batch)
    assert step > 5_000
    held = image_cache.Memory(
        tf.zeros([images, 2, 2, 3], tf.uint8),
        None,
        *(tf.zeros(shape, tf.int64) for shape in ([images, 2], [images], [images])),
        uniform=True,
    )
    monkeypatch.setattr(image_cache, "load", lambda _: held)
    seen: list[int] = []

    def decode(one: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = tf.numpy_function(lambda n: seen.append(int(n)) or n, [one["index"]], tf.int64)
        index = tf.ensure_shape(index, [])
        return {"image": tf.zeros([2, 2, 3], tf.uint8), "label": index % 10, "index": index}

    encoded = tf.data.Dataset.range(images).map(lambda index: {"index": index})
    decoded = encoded.map(decode)
    examples = Examples(decoded, images, 10, encoded=Encoded(encoded, decode, decoded))
    started = time.process_time()
    dataset = pretrain_dataset(
        examples, batch, PLAIN, PLAIN, MEAN, STD, 5, epoch, step, cache=cache
    )
    first = next(iter(dataset.as_numpy_iterator()))
    assert len(set(first["index"])) == batch
    assert len(seen) < 100 * batch
    assert time.process_time() - started < 30  # of all threads


def test_a_small_buffer_still_shows_everything(monkeypatch):
    """Where not all examples fit into the buffer, they are mixed near their places."""
    monkeypatch.setattr(pipeline, "SHUFFLE_BYTES", 3 * 8)
    order = np.concatenate([b["index"] for b in stream(made(), STEPS, cache="no")])
    assert len(set(order)) == len(order)
    assert (order <= np.arange(len(order)) + 3).all()
    assert (np.diff(order) != 1).any()


def test_replaced_examples_are_read_as_they_are_now():
    examples = made()
    assert examples.before_decoding is not None
    some = examples.take(8)
    assert some.count == 8
    assert some.before_decoding is not None
    assert examples.take(COUNT) is examples
    order = np.concatenate([b["index"] for b in stream(some, 2, cache="no")])
    assert sorted(order) == list(range(8))
    cut = dataclasses.replace(examples, dataset=examples.dataset.take(8), count=8)
    assert cut.before_decoding is None
    order = np.concatenate([b["index"] for b in stream(cut, 2, cache="no")])
    assert sorted(order) == list(range(8))


def test_what_fits_is_held(monkeypatch):
    seen: list[int] = []
    stream(made(seen=seen), 4 * STEPS, cache="auto")
    assert len(seen) < 2 * COUNT + 20  # the sample, and every image once
    seen.clear()
    monkeypatch.setattr(pipeline, "MEMORY_BYTES", 10 * 14 * 3 * COUNT - 1)
    stream(made(seen=seen), 4 * STEPS, cache="auto")
    assert len(seen) >= 4 * STEPS * BATCH


def test_without_masks_there_are_none():
    for alike in (True, False):
        (batch,) = stream(made(alike, masked=False), 1)
        assert set(batch) == {"view1", "view2", "label", "index"}


def test_nonsense_is_refused():
    with pytest.raises(UserError, match=r"--batch_size=24 is larger than the data \(23 images\)"):
        stream(made(), 1, batch_size=24)
    with pytest.raises(UserError, match="cache='maybe'"):
        stream(made(), 1, cache="maybe")


def test_shards_are_cut_by_data_and_order_is_kept():
    options = pretrain_dataset(made(), BATCH, PLAIN, PLAIN, MEAN, STD).options()
    policy = options.experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.DATA
    assert options.deterministic


# ------------------------------------------------------------------ evaluation


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_evaluation_shows_everything_in_order(alike, normalized):
    images, masks = pictures(alike)
    norm = (MEAN, STD) if normalized else (None, None)
    batches = list(evaluation_dataset(made(alike), 10, 8, *norm, "center_crop", 0.75))
    assert [len(batch["label"]) for batch in batches] == [10, 10, 3]
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(COUNT))
    found = np.concatenate([batch["image"] for batch in batches])
    cut = np.concatenate([batch["mask"] for batch in batches])
    for n in range(COUNT):
        image, mask = evaluation_transform(
            tf.constant(images[n]), 8, "center_crop", 0.75, tf.constant(masks[n])
        )
        wanted = normalize(image, MEAN, STD) if normalized else image
        np.testing.assert_array_equal(found[n], wanted)
        np.testing.assert_array_equal(cut[n], mask)


# ------------------------------------------------------------------ a user's own dataset


def own(form: str, count: int = 9) -> tf.data.Dataset:
    images, masks = (np.stack(x) for x in pictures(True, count))
    labels = np.arange(count, dtype=np.int32)
    elements = {
        "image": images,
        "float": images / np.float32(255),
        "tuple": (images, labels),
        "dict": {"image": images, "label": labels, "mask": masks, "name": labels.astype(str)},
    }
    return tf.data.Dataset.from_tensor_slices(elements[form])


def test_views_from_every_form_of_dataset():
    found = {
        form: list(views_from_images(own(form), 4, PLAIN, MEAN, STD, 3).as_numpy_iterator())
        for form in ("image", "float", "tuple", "dict")
    }
    for form, batches in found.items():
        assert [len(batch["index"]) for batch in batches] == [4, 4]
        index = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(index, np.arange(8))
        labels = np.concatenate([batch["label"] for batch in batches])
        np.testing.assert_array_equal(labels, index if form in ("tuple", "dict") else index * 0 - 1)
        assert set(batches[0]) - {"mask1", "mask2"} == {"view1", "view2", "label", "index"}
        assert ("mask1" in batches[0]) == (form == "dict")
        for batch, same in zip(batches, found["image"], strict=True):
            np.testing.assert_allclose(batch["view1"], same["view1"], atol=1e-5)
            np.testing.assert_allclose(batch["view2"], same["view2"], atol=1e-5)
    assert not np.array_equal(found["image"][0]["view1"], found["image"][0]["view2"])


def test_a_repeated_dataset_gives_new_views():
    dataset = views_from_images(own("image", 4).repeat(2), 4, PLAIN, MEAN, STD)
    first, second = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(second["index"], first["index"] + 4)
    assert not np.array_equal(first["view1"], second["view1"])


@pytest.mark.parametrize("wrong", ["batched", "text", "gray"])
def test_other_datasets_are_refused(wrong):
    dataset = {
        "batched": own("image").batch(2),
        "text": tf.data.Dataset.from_tensor_slices(["a.png"]),
        "gray": own("image").map(lambda image: image[..., :1]),
    }[wrong]
    with pytest.raises(UserError, match=r"give single images \[h, w, 3\]"):
        views_from_images(dataset, 2, FIRST, MEAN, STD)


def test_throughput_counts_images():
    batches = tf.data.Dataset.from_tensors({"view1": tf.zeros([7, 2, 2, 3])}).repeat()
    rate = throughput(batches, batches=5, warmup=1)
    assert np.isfinite(rate)
    assert rate > 7


# ------------------------------------------------------------------ real images


def test_real_images_of_many_sizes(real_images):
    info = describe("nuclei_dsb2018", 32)
    examples = load_examples(info, "train", str(real_images), limit=9)
    for cache in ("yes", "no"):
        batch = next(
            pretrain_dataset(
                examples, 9, PLAIN, PLAIN, info.mean, info.std, cache=cache
            ).as_numpy_iterator()
        )
        assert set(batch["index"]) == set(range(9))
        assert batch["mask1"].max() > 1
        shown = batch["view1"] * info.std + info.mean
        assert -1e-5 < shown.min() < shown.max() < 1 + 1e-5


def test_real_cifar_in_evaluation(real_images):
    info = describe("cifar10")
    examples = load_examples(info, "test[:30]", str(real_images))
    batches = list(evaluation_dataset(examples, 20, 32).as_numpy_iterator())
    found = np.concatenate([batch["image"] for batch in batches])
    raw = np.stack([row["image"] for row in examples.dataset.as_numpy_iterator()])
    np.testing.assert_allclose(found, raw / 255.0, atol=1e-6)
    mean = normalize(found, info.mean, info.std).numpy().mean((0, 1, 2))
    assert (np.abs(mean) < 0.5).all()
