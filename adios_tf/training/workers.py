"""Several processes that train together: what they tell each other, and how they end together.

The first of them, the chief, writes the run folder; the others only train. What exchanges anything
must be called by every worker at the same place; with one worker it does nothing.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping

import tensorflow as tf

from adios_tf.errors import Stopped, UserError

LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.FailedPreconditionError


def workers(strategy: tf.distribute.Strategy) -> int:
    """Returns how many processes train together."""
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the run folder."""
    return strategy.extended.should_checkpoint


def exchange(strategy: tf.distribute.Strategy, text: str = "") -> list[str]:
    """Returns the texts of all workers, in order."""
    if workers(strategy) == 1:
        return [text]
    codes = tf.constant([float(ord(letter)) for letter in text + "\0"])

    def gathered() -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.identity(codes), axis=0)

    codes_of_all = strategy.experimental_local_results(strategy.run(gathered))[0].numpy()
    texts = "".join(chr(int(code)) for code in codes_of_all).split("\0")[:-1]
    return texts[:: len(strategy.extended.worker_devices)]


def agree(strategy: tf.distribute.Strategy, facts: Mapping[str, str]) -> None:
    """Raises `UserError` on every worker, with what differs, unless all give the same facts."""
    told = [json.loads(text) for text in exchange(strategy, json.dumps(facts))]
    lines = []
    for name in {name: None for each in told for name in each}:
        values = [each.get(name, "nothing") for each in told]
        if other := next((n for n, value in enumerate(values) if value != values[0]), 0):
            lines.append(f"{name} is {values[0]} on worker 0, {values[other]} on worker {other}")
    if lines:
        raise UserError(f"{'; '.join(lines)}: start all workers alike (nothing was written)")


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Has an error of one worker inside of it end all of them, the others by `UserError`."""
    failed, line = None, ""
    try:
        yield
    except Exception as error:
        failed, line = error, " ".join(str(error).split()) or type(error).__name__
    lines = exchange(strategy, line)
    if failed is not None:
        raise failed
    for worker, line in enumerate(lines):
        if line:
            raise UserError(f"worker {worker} ended: {line}")


@contextlib.contextmanager
def loss_named() -> Iterator[None]:
    """Raises `Stopped`, with one line, where TensorFlow's error means that a worker was lost."""
    try:
        yield
    except LOST as error:
        if "TF_CONFIG" not in os.environ:
            raise
        raise Stopped(
            "another worker was lost (its own output may say why): start all workers again, and "
            "the run goes on from its last checkpoint"
        ) from error
