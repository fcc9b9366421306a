"""Batches for training and evaluation, repeatable to the bit.

The order of images is a function of (seed, epoch), the augmentation of an image a function of
(seed, epoch, index, view); so a run that starts at (epoch, step) sees the tail of the stream of
one that never stopped.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.data.augment import AugmentConfig, crop_resize, crop_resize_batch, draw, recolor
from adios_tf.data.geometry import evaluation_transform, normalize
from adios_tf.data.sources import Examples
from adios_tf.errors import UserError

MEMORY_BYTES = 2 * 2**30
SHUFFLE_BUFFER = 10_000
VIEWS = (1, 2)


@dataclasses.dataclass(frozen=True)
class _Memory:
    """Decoded images of any sizes, one after another, and where each begins."""

    pixels: tf.Tensor  # uint8, flat, or [n,h,w,3] if all have one size
    masks: tf.Tensor | None  # int32, likewise
    shapes: tf.Tensor  # int64 [n,2]
    starts: tf.Tensor  # int64 [n], in pixels
    labels: tf.Tensor  # int64 [n]
    uniform: bool


def pretrain_dataset(
    examples: Examples,
    batch_size: int,
    first: AugmentConfig,
    second: AugmentConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int = 0,
    start_epoch: int = 0,
    start_step: int = 0,
    cache: str = "auto",
) -> tf.data.Dataset:
    """An endless stream of batches of two views.

    Args:
      examples: from `load_examples`.
      batch_size: images per batch over all devices; an incomplete last batch is dropped.
      first, second: augmentation of the two views.
      mean, std: normalisation per channel.
      seed: of order and augmentation.
      start_epoch, start_step: where to begin.
      cache: `yes` holds the decoded images in memory and shuffles all of them; `no` decodes
        anew every epoch and shuffles within a buffer of 10,000; `auto` chooses by size.

    Returns:
      Batches {"view1", "view2": float32 [B,S,S,3], "label", "index": int64 [B]} and, with
      ground truth, {"mask1", "mask2": int32 [B,S,S]}.

    Raises:
      UserError: the batch is larger than the data.
    """
    if batch_size > examples.count:
        raise UserError(
            f"--batch_size={batch_size} is larger than the data ({examples.count} images): lower it"
        )
    steps = examples.count // batch_size
    configs = (first, second)
    seed64 = tf.constant(seed, tf.int64)

    def draws(epoch: tf.Tensor, index: tf.Tensor, view: int) -> tf.Tensor:
        own = (seed64 * 1_000_003 + epoch) * 2 + (view - 1)
        seeds = tf.stack([tf.broadcast_to(own, tf.shape(index)), index], axis=1)
        return tf.map_fn(draw, seeds, fn_output_signature=tf.float32)

    def finish(planes: tf.Tensor, drawn: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
        images = tf.transpose(recolor(planes, drawn, config), [0, 2, 3, 1])
        return normalize(images, mean, std)

    memory = _load(examples) if _fits(examples, cache) else None

    def from_memory(epoch: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = {"label": tf.gather(memory.labels, index), "index": index}
        for view, config in zip(VIEWS, configs, strict=True):
            drawn = draws(epoch, index, view)
            planes, masks = _cropped(memory, index, drawn, config)
            batch[f"view{view}"] = finish(planes, drawn, config)
            if masks is not None:
                batch[f"mask{view}"] = masks
        return batch

    def epoch_in_memory(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(examples.count, dtype=tf.int64), tf.stack([seed64, epoch])
        )
        rows = tf.reshape(order[: steps * batch_size], [steps, batch_size])
        rows = rows[_first_step(epoch) :]
        return tf.data.Dataset.from_tensor_slices(rows).map(lambda index: (epoch, index))

    def crop_one(epoch: tf.Tensor, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        one = {"label": example["label"], "index": example["index"], "epoch": epoch}
        for view, config in zip(VIEWS, configs, strict=True):
            drawn = draws(epoch, example["index"][None], view)[0]
            planes, mask = crop_resize(example["image"], drawn, config, example.get("mask"))
            one |= {f"view{view}": planes, f"draws{view}": drawn}
            if mask is not None:
                one[f"mask{view}"] = mask
        return one

    def recolour(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kept = {k: v for k, v in batch.items() if not k.startswith("draws") and k != "epoch"}
        for view, config in zip(VIEWS, configs, strict=True):
            kept[f"view{view}"] = finish(batch[f"view{view}"], batch[f"draws{view}"], config)
        return kept

    def epoch_from_disk(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = _shuffled(examples.dataset, seed64, epoch)
        rest = shuffled.skip(_first_step(epoch) * batch_size)
        cropped = rest.map(
            lambda example: crop_one(epoch, example), tf.data.AUTOTUNE, deterministic=True
        )
        return cropped.batch(batch_size, drop_remainder=True)

    def _first_step(epoch: tf.Tensor) -> tf.Tensor:
        return tf.where(epoch == start_epoch, tf.constant(start_step, tf.int64), 0)

    epochs = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max)
    if memory is not None:
        dataset = epochs.flat_map(epoch_in_memory)
        dataset = dataset.map(from_memory, tf.data.AUTOTUNE, deterministic=True)
    else:
        dataset = epochs.flat_map(epoch_from_disk)
        dataset = dataset.map(recolour, tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _shuffled(dataset: tf.data.Dataset, seed: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
    """`dataset.shuffle` with a seed that is a tensor.

    The method itself compares the seed in Python, which a tensor refuses wherever the global
    seed is 0.
    """
    specs = tf.nest.flatten(dataset.element_spec)
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(SHUFFLE_BUFFER, tf.int64),
        seed=seed + 1,
        seed2=epoch + 1,
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _fits(examples: Examples, cache: str) -> bool:
    if cache != "auto":
        return cache == "yes"
    sample = list(examples.dataset.take(16).as_numpy_iterator())
    return np.mean([e["image"].nbytes for e in sample]) * examples.count < MEMORY_BYTES


def _load(examples: Examples) -> _Memory:
    """Decodes every image once."""
    images, masks, labels = [], [], []
    bar = tqdm(desc="decoding images", total=examples.count, delay=2, unit="img")
    for example in examples.dataset.as_numpy_iterator():
        images.append(example["image"])
        labels.append(example["label"])
        if examples.has_masks:
            masks.append(example["mask"])
        bar.update()
    bar.close()
    shapes = np.array([image.shape[:2] for image in images], np.int64)
    uniform = bool((shapes == shapes[0]).all())
    starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
    join = np.stack if uniform else lambda parts: np.concatenate([p.reshape(-1) for p in parts])
    with tf.device("CPU"):
        return _Memory(
            tf.constant(join(images)),
            tf.constant(join(masks)) if masks else None,
            tf.constant(shapes),
            tf.constant(starts),
            tf.constant(np.array(labels, np.int64)),
            uniform,
        )


def _cropped(
    memory: _Memory, index: tf.Tensor, drawn: tf.Tensor, config: AugmentConfig
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Random resized crops of the images named by `index`: [B,3,S,S], and masks [B,S,S]."""
    if memory.uniform:
        masks = None if memory.masks is None else tf.gather(memory.masks, index)
        return crop_resize_batch(tf.gather(memory.pixels, index), drawn, config, masks)

    def one(arguments: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        n, numbers = arguments
        height, width = memory.shapes[n, 0], memory.shapes[n, 1]
        begin, size = memory.starts[n], height * width
        flat = memory.pixels[3 * begin : 3 * (begin + size)]
        mask = None
        if memory.masks is not None:
            mask = tf.reshape(memory.masks[begin : begin + size], [height, width])
        planes, mask = crop_resize(tf.reshape(flat, [height, width, 3]), numbers, config, mask)
        return planes, tf.zeros([], tf.int32) if mask is None else mask

    planes, masks = tf.map_fn(one, (index, drawn), fn_output_signature=(tf.float32, tf.int32))
    planes = tf.ensure_shape(planes, [None, 3, config.image_size, config.image_size])
    return planes, None if memory.masks is None else masks


def evaluation_dataset(
    examples: Examples,
    batch_size: int,
    image_size: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resize: str = "squash",
    crop_ratio: float = 0.875,
) -> tf.data.Dataset:
    """Every example once, in order, without chance.

    Returns:
      Batches {"image": float32 [B,S,S,3], normalised if mean and std are given and in [0,1]
      otherwise, "label", "index": [B], "mask": int32 [B,S,S] with ground truth}; the last batch
      may be smaller.
    """

    def one(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mask = example.get("mask")
        seen = evaluation_transform(example["image"], image_size, resize, crop_ratio, mask)
        image, mask = (seen, None) if mask is None else seen
        if mean is not None and std is not None:
            image = normalize(image, mean, std)
        found = {"image": image, "label": example["label"], "index": example["index"]}
        return found if mask is None else found | {"mask": mask}

    dataset = examples.dataset.map(one, tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def views_from_images(
    dataset: tf.data.Dataset,
    batch_size: int,
    config: AugmentConfig,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of two views from a user's own dataset of single images.

    Args:
      dataset: elements are an image [h,w,3] (uint8, or float in [0,1]), a tuple
        (image, label), or a dict with `image` and perhaps `label`.
      batch_size, config, mean, std, seed: as in `pretrain_dataset`. A second pass over the
        result repeats the first; shuffle and repeat `dataset` for new views.
    """

    def pick(index: tf.Tensor, *element: object) -> dict[str, tf.Tensor]:
        one = element[0] if len(element) == 1 else element
        if isinstance(one, dict):
            image, label = one["image"], one.get("label")
        elif isinstance(one, tuple):
            image, label = one[0], one[1]
        else:
            image, label = one, None
        found = {"label": tf.constant(-1, tf.int64) if label is None else tf.cast(label, tf.int64)}
        for view in VIEWS:
            drawn = draw(tf.stack([tf.constant(seed * 2 + view - 1, tf.int64), index]))
            planes, _ = crop_resize(image, drawn, config)
            found |= {f"view{view}": planes, f"draws{view}": drawn}
        return found

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        done = {"label": batch["label"]}
        for view in VIEWS:
            planes = recolor(batch[f"view{view}"], batch[f"draws{view}"], config)
            done[f"view{view}"] = normalize(tf.transpose(planes, [0, 2, 3, 1]), mean, std)
        return done

    indexed = dataset.enumerate().map(
        lambda index, *element: pick(index, *element), tf.data.AUTOTUNE, deterministic=True
    )
    batches = indexed.batch(batch_size, drop_remainder=True)
    return batches.map(finish, tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def throughput(dataset: tf.data.Dataset, batches: int = 20, warmup: int = 3) -> float:
    """Returns images per second that a dataset of batches delivers by itself."""
    iterator: Iterator = iter(dataset)
    for _ in range(warmup):
        next(iterator)
    started, images = time.perf_counter(), 0
    for _ in range(batches):
        images += int(next(iterator)["view1"].shape[0])
    return images / (time.perf_counter() - started)


def in_unit_range(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable:
    """Returns the inverse of `normalize`: normalised images -> [0,1]."""
    return lambda images: np.clip(np.asarray(images) * np.array(std) + np.array(mean), 0, 1)
