"""Repeats one update of a run, to see what happened in it and whether it happens again.

Every draw depends on (seed, step) alone, so normal runs pay nothing for it. The settings are those
of the run folder, which is only read.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from adios_tf.cli import parse
from adios_tf.errors import UserError
from adios_tf.reporting.tables import format_table
from adios_tf.run_folder import RunFolder
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.run import prepare, training_batches
from adios_tf.training.start import bring_weights


def replay(config: PretrainConfig) -> dict[str, Any]:
    """Repeats update `config.replay` of the run in `config.run_dir`, counted from 1, and prints it.

    It starts from the newest intact checkpoint before that update, or from fresh weights.

    Returns:
      `from`: updates of that checkpoint; the losses and gradient norms of the update; `weights`:
      SHA-256 of all variables after it; `same_as_checkpoint`: whether the run's checkpoint of this
      update holds the same bits, None where there is none; `not_finite`: the first layer, weight
      or input that is not finite, None if all are.

    Raises:
      UserError: no such run or update.
    """
    run, update = RunFolder(config.run_dir), config.replay
    known = {field.name for field in dataclasses.fields(config)}
    settings = {flag: value for flag, value in run.settings().items() if flag in known}
    if not settings:
        raise UserError(f"--run_dir={config.run_dir} holds no run to replay: no flags.txt is there")
    here = ("run_dir", "devices", "cluster")
    settings |= {flag: str(getattr(config, flag)) for flag in here}
    config = parse(PretrainConfig, [f"--{flag}={value}" for flag, value in settings.items()])
    config, info, train, model = prepare(config)
    steps_per_epoch = train.count // config.batch_size
    if update > config.epochs * steps_per_epoch:
        raise UserError(f"--replay={update}: the run has {config.epochs * steps_per_epoch} updates")
    checkpoints = Checkpoints(run.checkpoints, model)
    start = 0
    if any(step < update for step in checkpoints.steps()):
        start = checkpoints.restore(most=update - 1, keep_aside=False)
    elif config.init_from:
        bring_weights(config, model)

    data = training_batches(config, info, train, *divmod(start, steps_per_epoch))
    batches = iter(model.distribute_strategy.experimental_distribute_dataset(data))
    model.make_train_function()
    for _ in range(start, update - 1):
        model.train_function(batches)
    batch, before = next(batches), [v.numpy() for v in model.variables]
    model.reset_metrics()
    results = {k: float(v) for k, v in model.train_function(iter([batch])).items()}
    found = {"from": start, **results, "weights": checkpoints.digest(), "not_finite": None}
    if not all(map(np.isfinite, results.values())) or not _finite(model.variables):
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        found["not_finite"] = _first_not_finite(model, batch)
    found["same_as_checkpoint"] = None
    if update in checkpoints.steps():
        saved = checkpoints.restore(most=update, keep_aside=False)
        if saved == update:
            found["same_as_checkpoint"] = checkpoints.digest() == found["weights"]
    rows = [{"what": name, "value": value} for name, value in found.items()]
    print(format_table(rows, ["what", "value"], digits=6))
    return found


def _finite(values: Any) -> bool:
    tensors = map(tf.convert_to_tensor, tf.nest.flatten(values))
    return all(tf.reduce_all(tf.math.is_finite(t)) for t in tensors if t.dtype.is_floating)


def _first_not_finite(model: Pretrainer, batch: Mapping[str, Any]) -> str:
    """Names the first input, weight or layer's output of an update that is not finite."""
    local = model.distribute_strategy.experimental_local_results
    for name, images in batch.items():
        if not _finite(local(images)):
            return f"input {name}"
    for variable in model.variables:
        if not _finite(variable):
            return f"weight {variable.path}"
    names: list[str] = []
    with _outputs_watched(names), contextlib.suppress(tf.errors.InvalidArgumentError):
        tf.config.run_functions_eagerly(True)
        try:
            model.distribute_strategy.run(model.train_step, args=(batch,))
        finally:
            tf.config.run_functions_eagerly(False)
    return f"output of layer {names[0]}" if names else "the loss or its gradient, no layer's output"


@contextlib.contextmanager
def _outputs_watched(names: list[str]) -> Iterator[None]:
    """Collects the names of layers, in the order they are done, whose output is not finite."""
    call = keras.layers.Layer.__call__

    def watched(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = call(layer, *args, **kwargs)
        eager = [t for t in tf.nest.flatten(outputs) if isinstance(t, tf.Tensor)]
        if not _finite([t for t in eager if hasattr(t, "numpy")]):
            names.append(getattr(layer, "path", "") or layer.name)
        return outputs

    with mock.patch.object(keras.layers.Layer, "__call__", watched):
        yield
