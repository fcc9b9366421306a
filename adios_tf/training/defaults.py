"""Settings that were left out, chosen from the images and the machine, each with its reason.

For data outside the catalog only; beside a recipe or flagfile, only what the images are like. It is
written to flags.txt, from where a run that goes on takes it.
"""

import contextlib
import dataclasses
import io
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf import cli
from adios_tf.data import CATALOG, DatasetInfo, Examples, describe
from adios_tf.data.image_cache import decoded_bytes
from adios_tf.data.in_memory import LARGEST_SIDE, SIDE_STEP
from adios_tf.data.pipeline import MEMORY_BYTES
from adios_tf.errors import UserError
from adios_tf.reporting.tables import format_table
from adios_tf.run_folder import RunFolder
from adios_tf.training.config import PretrainConfig

SAMPLE = 500  # images that are measured, evenly spread
_CPU_SIDE = 96
FACTS = {"image_size", "mean", "std"}
_METHOD = set(
    "backbone masker_base batch_size optimizer learning_rate masker_learning_rate weight_decay "
    "warmup_start epochs warmup_epochs".split()
)
# Of encoder and masker at 128 images an update; AdamW's are those of configs/quickstart.flags.
_RATES = {"adamw": (0.002, 0.001), "lars": (0.4, 0.1), "sgd": (0.06, 0.06)}


def _own(info: DatasetInfo) -> bool:
    return info.name not in CATALOG and not info.embedded


def default_run_dir(config: PretrainConfig) -> str:
    """Returns runs/NAME for data outside the catalog whose run folder nobody named, else ""."""
    if config.given is None or {"run_dir", "flagfile"} & config.given.keys():
        return ""
    info = describe(config.dataset)
    if not _own(info):
        return ""
    print(f"run folder: runs/{Path(info.folder or info.name).resolve().name}")
    return f"runs/{Path(info.folder or info.name).resolve().name}"


def choose(
    config: PretrainConfig,
    given: Mapping[str, bool] | None,
    info: DatasetInfo,
    train: Examples,
    replicas: int,
    trial: Callable[[PretrainConfig], object],
) -> tuple[PretrainConfig, DatasetInfo]:
    """Returns the settings without a gap, and what the data are, as these say.

    Args:
      config: the settings.
      given: as `PretrainConfig.given`; None = nothing was left out.
      info, train: the images.
      replicas: devices that share a batch.
      trial: makes a whole run, to measure the speed for --max_minutes.

    Raises:
      UserError: --mean or --std are not three numbers.
    """
    free: set[str] = set()
    run = RunFolder(config.run_dir)
    goes_on = config.run_dir and config.resume and run.flags.exists()
    if given is not None and _own(info):
        free |= set() if info.name.startswith("memory:") else FACTS
        free |= set() if "flagfile" in given else _METHOD
        free -= given.keys()
        if not goes_on:  # what fits only together is not chosen beside a part of it
            free -= {"optimizer"} if "learning_rate" in given else set()
            free -= {"backbone"} if given.keys() & {"stem", "padding"} else set()
    free |= {"epochs"} if config.max_minutes else set()
    if goes_on:
        lines = [f"--{name}={value}" for name, value in run.settings().items() if name in free]
        recorded = vars(cli.parse(PretrainConfig, lines))
        config = dataclasses.replace(config, **{name: recorded[name] for name in free})
    elif free:
        config = _filled(config, train, replicas, trial, free)
    both = given is not None and given.get("epochs") and given.get("warmup_epochs")
    if config.warmup_epochs >= config.epochs and (free or given) and not both:
        config = dataclasses.replace(config, warmup_epochs=config.epochs // 10)
    if {len(config.mean), len(config.std)} not in ({0}, {3}):
        raise UserError("--mean and --std: give both, one number for each of the three channels")
    side, mean, std = config.image_size or info.image_size, config.mean, config.std
    info = dataclasses.replace(info, image_size=side, mean=mean or info.mean, std=std or info.std)
    return dataclasses.replace(config, image_size=side), info


def _filled(
    config: PretrainConfig,
    train: Examples,
    replicas: int,
    trial: Callable[[PretrainConfig], object],
    free: set[str],
) -> PretrainConfig:
    """Returns the settings with those that are free chosen, and prints these."""
    rows, started = [], time.perf_counter()

    def put(because: str, **values: object) -> None:
        nonlocal config
        values = {name: value for name, value in values.items() if name in free}
        config = dataclasses.replace(config, **values)
        for name, equals, value in (line[2:].partition("=") for line in cli.flag_lines(config)):
            if name in values:
                rows.append({"setting": f"--{name}{equals}{value}", "because": because})

    gpu = bool(tf.config.list_logical_devices("GPU"))
    machine, largest = ("a GPU", LARGEST_SIDE) if gpu else ("a CPU", _CPU_SIDE)
    if free & FACTS:
        side, mean, std = measured(train)
        rounded = SIDE_STEP * max(1, round(min(side, largest) / SIDE_STEP))
        why = f"half of the images have {side} pixels or more; at most {largest} on {machine}"
        put(why, image_size=rounded)
        put("of the images, in [0,1]", mean=mean, std=std)
    small = {"backbone": "convnet_small", "masker_base": 8}
    put(f"trains on {machine}", **({"backbone": "resnet18", "masker_base": 32} if gpu else small))
    most = 128 if gpu or config.image_size <= 64 else 64
    batch = min(most, 2 ** max(1, int(math.log2(train.count / 4))))
    why = f"{train.count} images on {machine}"
    put(why, batch_size=max(replicas, batch // replicas * replicas))
    lars = gpu and not config.backbone.startswith("vit")
    put(f"{config.backbone} on {machine}", optimizer="lars" if lars else "adamw")
    kind, scale = config.optimizer, config.batch_size / 128
    scale = math.sqrt(scale) if kind == "adamw" else scale
    rate, masker_rate = (float(f"{scale * one:.3g}") for one in _RATES[kind])
    fits = f"{kind} at {config.batch_size} images an update"
    put(fits, learning_rate=rate, masker_learning_rate=masker_rate)
    put(fits, weight_decay=1e-4 if kind == "adamw" else 1e-5)
    put("a tenth of the rate", warmup_start=float(f"{config.learning_rate / 10:.3g}"))
    seen, least, most = (10_000_000, 50, 800) if gpu else (200_000, 10, 200)
    epochs = min(max(seen // train.count, least), most)
    if config.max_minutes:
        epochs, why = _epochs_in_time(config, train, trial, started)
    put(why, epochs=epochs)
    put("a tenth of the epochs, at most 10", warmup_epochs=min(10, config.epochs // 10))
    print(format_table(rows))
    return config


def _epochs_in_time(
    config: PretrainConfig,
    train: Examples,
    trial: Callable[[PretrainConfig], object],
    started: float,
) -> tuple[int, str]:
    """Returns the epochs that --max_minutes leaves time for, and why.

    Two short epochs of a run that is thrown away tell the speed of the steps, and what an epoch
    costs beside them (health, pictures, checkpoint, model).
    """
    print("measuring the speed of a few steps")
    count = min(3 * config.batch_size, train.count)
    cache = "no" if config.cache == "no" or decoded_bytes(train) > MEMORY_BYTES else "yes"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = RunFolder(folder + "/run")
        short = f"""--run_dir={run.path} --epochs=2 --warmup_epochs=0 --max_minutes=0
        --train_images={count} --cache={cache} --knn_train_images=64 --knn_test_images=64
        --init_from= --checkpoint_steps=0 --keep_checkpoints=2 --nostop_on_collapse""".split()
        settings = cli.parse(PretrainConfig, [*cli.flag_lines(config), *short])
        trial(dataclasses.replace(settings))  # without `given`: nothing is left out
        first, second = sorted(file.stat().st_mtime for file in run.checkpoints.glob("ckpt-*"))
        seconds = run.records()[1]["seconds"]
    keras.backend.clear_session()  # the names of layers begin anew
    step, beside = seconds / (count // config.batch_size), max(second - first - seconds, 0.0)
    # Building the step and the first measurements take as long again.
    left = 60 * config.max_minutes - 2 * (time.perf_counter() - started)
    epochs = max(1, int(left / (train.count // config.batch_size * step + beside)))
    speed = f"{config.batch_size / step:.0f} images a second, {beside:.1f} s beside them an epoch"
    return epochs, f"--max_minutes={config.max_minutes:g}, {speed}"


def measured(train: Examples) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Returns the median of the images' shorter sides, and mean and deviation per channel."""
    encoded, every = train.before_decoding, max(1, train.count // SAMPLE)
    some = (train.dataset if encoded is None else encoded.dataset).shard(every, 0)
    some = some if encoded is None else some.map(encoded.decode, tf.data.AUTOTUNE)
    sides, means, squares = [], [], []
    for one in tqdm(some.as_numpy_iterator(), "measuring", delay=2, unit="img"):
        sides.append(min(one["image"].shape[:2]))
        step = max(1, sides[-1] // 256)
        pixels = one["image"][::step, ::step].reshape(-1, 3) / 255
        means.append(pixels.mean(axis=0))
        squares.append((pixels**2).mean(axis=0))
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 1e-6))
    return int(np.median(sides)), *(tuple(one.round(4).tolist()) for one in (mean, std))
