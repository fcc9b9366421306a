"""A whole pretraining run: from settings to a run folder."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf import cli, pretrained
from adios_tf.data import (
    AugmentConfig,
    DatasetInfo,
    Examples,
    describe,
    evaluation_dataset,
    load_examples,
    normalize,
    pretrain_dataset,
)
from adios_tf.data.in_memory import InMemory
from adios_tf.distribution import strategy_for
from adios_tf.errors import Stopped, UserError
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.registry import import_plugins
from adios_tf.reporting.curves import draw_curves
from adios_tf.reporting.report import write_report
from adios_tf.reporting.tables import format_table, write_json
from adios_tf.run_folder import RunFolder
from adios_tf.training.build import build_pretrainer
from adios_tf.training.callbacks import Guard, Monitor, Progress, SaveCheckpoints
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig
from adios_tf.training.defaults import choose, default_run_dir
from adios_tf.training.failures import enough_memory, explained
from adios_tf.training.lock import locked
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.signals import StopSignals
from adios_tf.training.stalled import StalledInput
from adios_tf.training.start import bring_weights, check_folder, environment, follow, start_run
from adios_tf.training.system import peak_memory_mb
from adios_tf.training.workers import agree, is_chief, loss_named, together, workers

HEALTH_IMAGES = 256
OWN = ("--run_dir", "--data_dir")  # a worker may know the same files by another path


@loss_named()
def pretrain(
    config: PretrainConfig,
    images: InMemory | None = None,
    encoder: keras.Model | None = None,
) -> dict[str, Any]:
    """Trains, evaluates before and after, and writes the run folder.

    Of several workers the first does all that; the others train, and read its checkpoint.

    Args:
      config: the settings.
      images: to train on, instead of `config.dataset`.
      encoder: a model to train a copy of, instead of `config.backbone`.

    Returns:
      What `summary.json` holds.

    Raises:
      UserError: a mistake in the settings, the data or the folder.
      Stopped: a signal ended the run and all is saved, or another worker was lost.
    """
    started = time.perf_counter()
    given = config.given
    if not config.run_dir:
        config = dataclasses.replace(config, run_dir=default_run_dir(config))
    if not config.run_dir:
        raise UserError("--run_dir is required: name the folder that the run may write")
    run = RunFolder(config.run_dir)
    config, info, train, model = prepare(config, images, encoder, given)
    counts = {"images": train.count, "classes": train.num_classes}
    checkpoints = Checkpoints(run.checkpoints, model, config.keep_checkpoints, counts)
    strategy = model.distribute_strategy
    with contextlib.ExitStack() as held:
        with together(strategy):
            if is_chief(strategy):
                check_folder(config, run, checkpoints)
            if config.init_from and not checkpoints.exist:
                bring_weights(config, model)
            if is_chief(strategy):
                held.enter_context(locked(run.path))
        held.enter_context(explained(run.path, lambda: checkpoints.latest))
        stop = held.enter_context(StopSignals(workers(strategy) > 1))
        return _pretrain(config, run, info, train, model, checkpoints, stop, started)


def prepare(
    config: PretrainConfig,
    images: InMemory | None = None,
    encoder: keras.Model | None = None,
    given: Mapping[str, bool] | None = None,
) -> tuple[PretrainConfig, DatasetInfo, Examples, Pretrainer]:
    """Opens the data and builds the networks, with fresh weights; arguments as of `pretrain`.

    `given` is as in `adios_tf.training.defaults.choose`.

    Returns:
      The settings with the images' side, what the data are, their examples and the model.
    """
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = strategy_for(config.devices, config.cluster)
    if config.max_minutes and workers(strategy) > 1:
        raise UserError("--max_minutes measures one machine's speed: with several name --epochs")
    flags = dict(line.split("=", 1) for line in cli.flag_lines(config))
    agree(strategy, {name: value for name, value in flags.items() if name not in OWN})
    with together(strategy):
        import_plugins(config.plugins)
        info = images.info if images else describe(config.dataset, config.image_size)
        train = images.examples if images else training_examples(config, info)
        if train.count < 2:
            raise UserError("one image is too few: pretraining compares images with each other")
    agree(strategy, {"the number of images": str(train.count)})

    def trial(settings: PretrainConfig) -> None:
        part = train.take(settings.train_images)
        pretrain(settings, dataclasses.replace(images, examples=part) if images else None, encoder)

    with together(strategy):
        replicas = strategy.num_replicas_in_sync
        config, info = choose(config, given, info, train, replicas, trial)
    keras.mixed_precision.set_dtype_policy(config.precision)
    if config.batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"--batch_size={config.batch_size} does not divide over "
            f"{strategy.num_replicas_in_sync} devices: take a multiple, or --devices=1"
        )
    half = config.precision == "mixed_float16" and strategy.num_replicas_in_sync > 1
    if half:
        raise UserError(
            "--precision=mixed_float16 with several devices: Keras's loss scaling looks at one "
            "device only; take mixed_bfloat16, or --devices=1"
        )

    steps_per_epoch = train.count // config.batch_size
    if not steps_per_epoch:
        raise UserError(
            f"--batch_size={config.batch_size} is larger than the data ({train.count} images)"
        )
    num_classes = train.num_classes if config.probe else None
    with strategy.scope(), enough_memory(lambda: "nothing was trained"):
        model = build_pretrainer(config, steps_per_epoch, num_classes or None, encoder)
    return config, info, train, model


def _pretrain(
    config: PretrainConfig,
    run: RunFolder,
    info: DatasetInfo,
    train: Examples,
    model: Pretrainer,
    checkpoints: Checkpoints,
    stop: StopSignals,
    started: float,
) -> dict[str, Any]:
    """The part of `pretrain` that reads and writes the run folder."""
    strategy, steps_per_epoch = model.distribute_strategy, train.count // config.batch_size
    done, chief, monitor = 0, is_chief(strategy), None
    with together(strategy):
        if chief:
            done = start_run(config, run, checkpoints)
            evaluator = OnlineEvaluator(config, info, train, model)
            summary = _before(run, evaluator) if done == 0 else run.read(run.before)
            earlier = sum(record.get("seconds") or 0.0 for record in run.records())
            views, pictures = _fixed_batches(config, info, train)
            monitor = Monitor(
                run,
                views,
                images=pictures["image"],
                truth=pictures.get("mask"),
                normalize=lambda images: normalize(images, info.mean, info.std),
                knn=evaluator.knn if config.knn_every else None,
                knn_every=config.knn_every,
                picture_every=config.picture_every,
                images_per_epoch=steps_per_epoch * config.batch_size,
                stop_on_collapse=config.stop_on_collapse,
                epochs=config.epochs,
                last_saved=lambda: checkpoints.latest,
                resumed=checkpoints.epoch.get("monitor"),
            )
    done = follow(run, checkpoints, done)
    epoch, step = divmod(done, steps_per_epoch)
    data = training_batches(config, info, train, epoch, step)

    @together(strategy)
    def save_model() -> None:
        if chief:
            _save_model(run, config, info, train, model)

    guard = Guard(saves=config.checkpoint_steps, last_saved=lambda: checkpoints.latest)
    saver = SaveCheckpoints(checkpoints, guard, monitor, config.checkpoint_steps)
    watcher = monitor or keras.callbacks.Callback()
    watcher.on_epoch_end = together(strategy)(watcher.on_epoch_end)
    progress = Progress(config.batch_size, steps_per_epoch * config.epochs, done)
    callbacks = [
        *([progress] if chief else []),
        guard,
        watcher,
        saver,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: save_model()),
        stop,
    ]
    try:
        if done and not step:
            _catch_up(run, model, callbacks, epoch, checkpoints.epoch.get("open"), save_model)
        if epoch < config.epochs:
            with StalledInput(model, f"--dataset={config.dataset}"):
                _fit(model, data, callbacks, config.epochs, epoch, step, steps_per_epoch)
    except Stopped:
        saver.save_open()
        raise

    with together(strategy):
        if chief:
            summary |= evaluator.after()
            summary |= _speed(run)
            summary["seconds"] = earlier + time.perf_counter() - started
            write_json(run.summary, summary)
            draw_curves(run.records(), run.curves)
            write_report(run.path)
            _print(summary, run)
    return run.read(run.summary)


# ------------------------------------------------------------------ starting


def training_examples(config: PretrainConfig, info: DatasetInfo) -> Examples:
    """Opens the images that the settings train on."""
    return load_examples(
        info,
        config.train_split or info.train_split,
        config.data_dir or None,
        config.download,
        limit=config.train_images,
        class_list=config.class_list,
        skip_broken=config.skip_broken,
    )


def training_batches(
    config: PretrainConfig, info: DatasetInfo, train: Examples, epoch: int = 0, step: int = 0
) -> tf.data.Dataset:
    """Returns the endless batches of views that `fit` sees from that epoch and step on."""
    both, size, seed = _augmentation(config), config.batch_size, config.seed
    return pretrain_dataset(
        train, size, both, both, info.mean, info.std, seed, epoch, step, config.cache
    )


# ------------------------------------------------------------------ training


def _augmentation(config: PretrainConfig) -> AugmentConfig:
    names = {field.name for field in dataclasses.fields(AugmentConfig)}
    chosen = {k: v for k, v in dataclasses.asdict(config).items() if k in names}
    return AugmentConfig(**chosen)


def _catch_up(
    run: RunFolder,
    model: Pretrainer,
    callbacks: list[keras.callbacks.Callback],
    epoch: int,
    unfinished: bool,
    save_model: Callable[[], None],
) -> None:
    """Does what was left to do after the last update of an epoch when the run was stopped."""
    if unfinished:
        everybody = keras.callbacks.CallbackList(callbacks, model=model)
        everybody.on_epoch_begin(epoch - 1)
        everybody.on_epoch_end(epoch - 1, model.epoch_means())
    elif run.model_step() != int(model.step.numpy()):
        save_model()


def _fit(
    model: Pretrainer,
    data: tf.data.Dataset,
    callbacks: list[keras.callbacks.Callback],
    epochs: int,
    epoch: int,
    step: int,
    steps_per_epoch: int,
) -> None:
    """Runs the epochs that are left, the first of them from `step` on."""
    fit = functools.partial(model.fit, callbacks=callbacks, verbose=0, shuffle=False)
    if step:
        rest = steps_per_epoch - step
        fit(data, epochs=epoch + 1, initial_epoch=epoch, steps_per_epoch=rest)
        epoch, data = epoch + 1, data.skip(rest)
    if epoch < epochs:
        fit(data, epochs=epochs, initial_epoch=epoch, steps_per_epoch=steps_per_epoch)


def _fixed_batches(
    config: PretrainConfig, info: DatasetInfo, train: Examples
) -> tuple[dict[str, tf.Tensor], dict[str, np.ndarray]]:
    """Views for the health metrics and pictures for the panel, the same in every run."""
    some = dataclasses.replace(
        train,
        dataset=train.dataset.take(HEALTH_IMAGES),
        count=min(HEALTH_IMAGES, train.count),
    )
    augmentation = _augmentation(config)
    views = pretrain_dataset(
        some, some.count, augmentation, augmentation, info.mean, info.std, cache="no"
    )
    pictures = evaluation_dataset(train, config.picture_images, info.image_size)
    batch = next(iter(pictures.take(1)))
    return next(iter(views)), {k: v.numpy() for k, v in batch.items()}


def _save_model(
    run: RunFolder, config: PretrainConfig, info: DatasetInfo, train: Examples, model: Pretrainer
) -> None:
    flags = "dataset image_size backbone stem padding objective masking fill high_pass".split()
    facts = {flag: getattr(config, flag) for flag in flags} | {
        "mean": list(info.mean),
        "std": list(info.std),
        "class_names": list(train.class_names),
        "num_masks": model.masking.num_masks,
        "step": int(model.step.numpy()),
        "commit": environment()["commit"],
    }
    pretrained.save(
        run.model,
        facts,
        model.inference_encoder,
        model.objective.projector,
        model.inference_masker(config.image_size),
        model.objective.predictor,
        target_encoder=getattr(model.objective, "target_encoder", None),
        target_projector=getattr(model.objective, "target_projector", None),
        classifier=model.probe.inference_model() if model.probe is not None else None,
    )


# ------------------------------------------------------------------ closing


def _before(run: RunFolder, evaluator: OnlineEvaluator) -> dict[str, Any]:
    summary = evaluator.before()
    write_json(run.before, summary)
    for name, value in summary.items():
        tqdm.write(f"{name}: {value:.3f}")
    return dict(summary)


def _speed(run: RunFolder) -> dict[str, Any]:
    records = run.records()
    speeds = [speed for record in records if (speed := record.get("images_per_second"))]
    return {
        "epochs": len(records),
        "images_per_second": float(np.median(speeds)) if speeds else None,
        "peak_memory_mb": peak_memory_mb(),
    }


def _print(summary: dict[str, Any], run: RunFolder) -> None:
    wanted = ("knn_pixels", "knn_untrained", "knn_trained", "mask_ari", "mask_ari_random")
    wanted += ("seconds", "images_per_second", "peak_memory_mb")
    rows = [{"what": name, "value": summary[name]} for name in wanted if name in summary]
    print(format_table(rows, ["what", "value"]))
    for name in ("pictures", "report", "summary"):
        print(f"{name}: {getattr(run, name)}")
