"""Batches for training and evaluation, repeatable to the bit.

The order of images is a function of (seed, epoch), the augmentation of an image a function of
(seed, epoch, index, view); so a run that starts at (epoch, step) sees the tail of the stream of
one that never stopped.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from adios_tf.data import image_cache
from adios_tf.data.augmentation import AugmentConfig, crop_resize, crop_resize_batch, draw, recolor
from adios_tf.data.geometry import evaluation_transform, normalize
from adios_tf.data.sources import Examples
from adios_tf.errors import UserError

MEMORY_BYTES = 2 * 2**30  # of decoded images that are held
SHUFFLE_BYTES = 2**29  # of examples that wait to be shuffled where images are not held
BATCH_PIXELS = 2**24  # values of a batch of images that is evaluated at once
VIEWS = (1, 2)
_CROPPED = ("image", "mask")


@dataclasses.dataclass(frozen=True)
class _Views:
    """How two views are made of an example: of a batch at once, or crop by crop."""

    configs: tuple[AugmentConfig, AugmentConfig]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: tf.Tensor

    def draws(self, epoch: tf.Tensor, index: tf.Tensor, view: int) -> tf.Tensor:
        """Returns the random numbers of a view of one image: a function of its arguments."""
        own = (self.seed * 1_000_003 + epoch) * len(VIEWS) + (view - 1)
        return draw(tf.stack([own, index]))

    def of_batch(self, epoch: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """{"image": [B,h,w,3], "label", "index", "mask"} -> a batch of two views."""
        made = {"label": batch["label"], "index": batch["index"]}
        drawn = tf.map_fn(
            lambda index: tf.stack([self.draws(epoch, index, view) for view in VIEWS]),
            batch["index"],
            fn_output_signature=tf.float32,
        )
        drawn, rows = tf.unstack(drawn, axis=1), tf.shape(drawn)[0]
        # Both views at once, if they are made alike: the price is per op.
        together = [VIEWS] if self.configs[0] == self.configs[1] else [(view,) for view in VIEWS]
        for views in together:
            config, draws = self.configs[views[0] - 1], tf.concat([drawn[v - 1] for v in views], 0)
            copies = {k: tf.concat([v] * len(views), 0) for k, v in batch.items() if k in _CROPPED}
            planes, masks = crop_resize_batch(copies["image"], draws, config, copies.get("mask"))
            images = self._finish(planes, draws, config)
            for n, view in enumerate(views):
                own = slice(n * rows, (n + 1) * rows)
                made[f"view{view}"] = images[own]
                if masks is not None:
                    made[f"mask{view}"] = masks[own]
        return made

    def crop(self, epoch: tf.Tensor, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """{"image": [h,w,3], "label", "index", "mask"} -> crops and the numbers to finish them."""
        made = {"label": example["label"], "index": example["index"]}
        for view, config in zip(VIEWS, self.configs, strict=True):
            drawn = self.draws(epoch, example["index"], view)
            planes, mask = crop_resize(example["image"], drawn, config, example.get("mask"))
            made |= {f"view{view}": planes, f"draws{view}": drawn}
            if mask is not None:
                made[f"mask{view}"] = mask
        return made

    def of_crops(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A batch of what `crop` returns -> a batch of two views."""
        made = {k: v for k, v in batch.items() if not k.startswith("draws")}
        for view, config in zip(VIEWS, self.configs, strict=True):
            made[f"view{view}"] = self._finish(batch[f"view{view}"], batch[f"draws{view}"], config)
        return made

    def _finish(self, planes: tf.Tensor, drawn: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
        planes = recolor(planes, drawn, config)
        # Plane by plane: three numbers at a time along the pixels would take twice as long.
        mean, std = (tf.constant(x, tf.float32)[:, None, None] for x in (self.mean, self.std))
        return tf.transpose((planes - mean) / std, [0, 2, 3, 1])


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
      mean, std: normalization per channel.
      seed: of order and augmentation.
      start_epoch, start_step: where to begin.
      cache: `yes` holds the decoded images in memory and shuffles all of them; `no` decodes
        anew every epoch and shuffles what is still encoded within a buffer of 512 MiB (the
        files of a folder: all of them); `auto` holds what fits into 2 GiB.

    Returns:
      Batches {"view1", "view2": float32 [B,S,S,3], "label", "index": int64 [B]} and, with
      ground truth, {"mask1", "mask2": int32 [B,S,S]}.

    Raises:
      UserError: the batch is larger than the data, or `cache` is none of these.
    """
    if cache not in ("auto", "yes", "no"):
        raise UserError(f"cache={cache!r}: known are auto, yes, no")
    if batch_size > examples.count:
        raise UserError(
            f"--batch_size={batch_size} is larger than the data ({examples.count} images): lower it"
        )
    views = _Views((first, second), mean, std, tf.constant(seed, tf.int64))
    steps = examples.count // batch_size
    held = cache == "yes" or (
        cache == "auto" and image_cache.decoded_bytes(examples) <= MEMORY_BYTES
    )
    store = image_cache.load(examples) if held else None
    source = None if held else _shuffler(examples, seed)
    alike = store.uniform if held else _alike(examples)

    def order(epoch: tf.Tensor) -> tf.Tensor:
        """The images of an epoch that are still to come, [k,B]."""
        permuted = tf.random.experimental.stateless_shuffle(
            tf.range(examples.count, dtype=tf.int64), tf.stack([views.seed, epoch])
        )
        return tf.reshape(permuted[: steps * batch_size], [steps, batch_size])[done(epoch) :]

    def done(epoch: tf.Tensor) -> tf.Tensor:
        return tf.where(epoch == start_epoch, tf.constant(start_step, tf.int64), 0)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        if held and alike:
            rows = tf.data.Dataset.from_tensor_slices(order(epoch))
            return rows.map(lambda index: (epoch, index))
        if held:
            rows = tf.data.Dataset.from_tensor_slices(tf.reshape(order(epoch), [-1]))
            found = rows.map(store.example)
        else:
            found = source(epoch, done(epoch) * batch_size)
        if alike:
            return found.batch(batch_size, drop_remainder=True).map(lambda batch: (epoch, batch))
        crops = _parallel(found, lambda example: views.crop(epoch, example))
        return crops.batch(batch_size, drop_remainder=True)

    epochs = tf.data.Dataset.range(start_epoch, np.iinfo(np.int64).max).flat_map(one_epoch)
    if held and alike:
        batches = _parallel(epochs, lambda epoch, index: views.of_batch(epoch, store.batch(index)))
    else:
        batches = _parallel(epochs, views.of_batch if alike else views.of_crops)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.deterministic = True
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)


def _parallel(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    # Rewriting the functions, which have no conditions that are tensors, would take seconds.
    function = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(function, tf.data.AUTOTUNE, deterministic=True)


def _alike(examples: Examples) -> bool:
    return examples.dataset.element_spec["image"].shape.is_fully_defined()


def _shuffler(examples: Examples, seed: int) -> Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]:
    """Returns (epoch, skipped) -> the examples of an epoch after so many, decoded last."""
    encoded = examples.before_decoding
    small = examples.dataset if encoded is None else encoded.dataset
    sizes = [
        sum(len(v) if isinstance(v, bytes) else v.nbytes for v in one.values())
        for one in small.take(16).as_numpy_iterator()
    ]
    buffer = max(1, min(examples.count, int(SHUFFLE_BYTES / np.mean(sizes))))

    def epoch_of(epoch: tf.Tensor, skipped: tf.Tensor) -> tf.data.Dataset:
        rest = shuffled(small, buffer, tf.constant(seed, tf.int64), epoch).skip(skipped)
        return rest if encoded is None else _parallel(rest, encoded.decode)

    return epoch_of


def shuffled(
    dataset: tf.data.Dataset, buffer: int, seed: tf.Tensor, epoch: tf.Tensor
) -> tf.data.Dataset:
    """`dataset.shuffle` with a seed that is a tensor.

    The method itself compares the seed in Python, which a tensor refuses wherever the global
    seed is 0.
    """
    specs = tf.nest.flatten(dataset.element_spec)
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.constant(buffer, tf.int64),
        seed=seed + 1,
        seed2=epoch + 1,
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def evaluation_dataset(
    examples: Examples,
    batch_size: int,
    image_size: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resize: str = "squash",
    crop_ratio: float = 0.875,
    interpolation: str = "bicubic",
) -> tf.data.Dataset:
    """Every example once, in order, without chance.

    Args:
      examples: from `load_examples`.
      batch_size: the last batch may be smaller.
      image_size: the side S.
      mean, std: normalization per channel; without them images are in [0,1].
      resize, crop_ratio, interpolation: see `geometry.evaluation_transform`.

    Returns:
      Batches {"image": float32 [B,S,S,3], "label", "index": int64 [B]} and, with ground truth,
      {"mask": int32 [B,S,S]}.
    """

    def one(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mask = example.get("mask")
        how = resize, crop_ratio, mask, interpolation
        seen = evaluation_transform(example["image"], image_size, *how)
        image, mask = (seen, None) if mask is None else seen
        if mean is not None and std is not None:
            image = normalize(image, mean, std)
        found = {"image": image, "label": example["label"], "index": example["index"]}
        return found if mask is None else found | {"mask": mask}

    shape = examples.dataset.element_spec["image"].shape
    if shape.is_fully_defined() and batch_size * shape.num_elements() <= BATCH_PIXELS:
        # Small images take twice as long one by one.
        return _parallel(examples.dataset.batch(batch_size), one).prefetch(tf.data.AUTOTUNE)
    return _parallel(examples.dataset, one).batch(batch_size).prefetch(tf.data.AUTOTUNE)


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
        (image, label), or a dict with `image` and perhaps `label` and `mask`.
      batch_size: images per batch; an incomplete last batch is dropped.
      config: the parameters of both views.
      mean, std, seed: as in `pretrain_dataset`. A view depends on the seed and the image's
        position in `dataset`: where that ends, so does the result, and a second pass repeats
        the first. Shuffle and repeat `dataset` for an order and views that change.

    Returns:
      Batches as those of `pretrain_dataset`; "label" is -1 where there is none, "index" the
      position.

    Raises:
      UserError: elements without an image [h,w,3].
    """
    spec = dataset.element_spec
    image = spec["image"] if isinstance(spec, dict) and "image" in spec else spec
    image = image[0] if isinstance(image, tuple) else image
    if not isinstance(image, tf.TensorSpec) or (image.shape.rank, image.shape[-1:]) != (3, [3]):
        raise UserError(
            f"the dataset yields {spec}: give single images [h, w, 3], (image, label) tuples or "
            'dicts with "image"; unbatch() a batched dataset'
        )
    views = _Views((config, config), mean, std, tf.constant(seed, tf.int64))

    def crop(index: tf.Tensor, element: object) -> dict[str, tf.Tensor]:
        if isinstance(element, dict):
            one = {k: v for k, v in element.items() if k in ("image", "label", "mask")}
        elif isinstance(element, tuple):
            one = {"image": element[0], "label": element[1]}
        else:
            one = {"image": element}
        label = tf.cast(one.get("label", -1), tf.int64)
        # Epoch 0 throughout: the position goes on counting where `dataset` repeats.
        return views.crop(tf.constant(0, tf.int64), one | {"label": label, "index": index})

    crops = _parallel(dataset.enumerate(), crop).batch(batch_size, drop_remainder=True)
    return _parallel(crops, views.of_crops).prefetch(tf.data.AUTOTUNE)


def throughput(dataset: tf.data.Dataset, batches: int = 20, warmup: int = 3) -> float:
    """Returns images per second that `dataset` gives by itself, over `batches` after `warmup`."""
    iterator = iter(dataset)
    for _ in range(warmup):
        next(iterator)
    started, images = time.perf_counter(), 0
    for _ in range(batches):
        images += int(tf.nest.flatten(next(iterator))[0].shape[0])
    return images / (time.perf_counter() - started)
