"""Fine-tuning of the whole encoder, with all labels or with a few.

The defaults depart from the official ADIOS code: BatchNorm's statistics follow the new data,
weight decay is decoupled, there is no LARS, the rate changes with every step, and the head starts
from zero. `--protocol_preset=adios` is the official protocol.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.probe_bank import Head, first_head
from adios_tf.optimizers import build_optimizer
from adios_tf.registry import check_choice
from adios_tf.schedules import WarmupCosine

BATCHNORM = ("train", "frozen")
TUNERS = ("sgdw", "sgd", "lars")


class _Progress(keras.callbacks.Callback):
    """Moves a bar that spans all epochs, and stops where the loss is lost."""

    def __init__(self, bar: tqdm):
        super().__init__()
        self._bar = bar

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update()
        if not np.isfinite((logs or {}).get("loss", 0.0)):
            raise UserError("fine-tuning diverged (loss is NaN): lower its learning rate")


class Classifier(keras.Model):
    """Encoder + linear head: normalized images [B,S,S,3] -> logits [B,C].

    The encoder (images -> features [B,D]) is taken as it is, not copied, and becomes trainable.
    With `batchnorm` "train" it uses and updates batch statistics in training; "frozen" keeps it in
    inference mode, with the statistics of pretraining. For `head`, the first weights, see
    `first_head`; zeros favor no class and depend on no seed. `UserError` for another `batchnorm` or
    `head`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        classes: int,
        batchnorm: str = "train",
        head: Head = "zeros",
        seed: int = 0,
    ):
        super().__init__()
        check_choice("batchnorm", batchnorm, BATCHNORM)
        encoder.trainable = True
        self.encoder = encoder
        self.head = keras.layers.Dense(classes, dtype=keras.config.floatx())
        self.head.build(encoder.output_shape)
        self.head.set_weights(first_head(head, encoder.output_shape[-1], classes, seed))
        self.built = True
        self._follows = batchnorm == "train"

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        # A functional model would not do: it hands its own `training` to every layer, also
        # to one that was called with training=False.
        return self.head(self.encoder(images, training=training and self._follows))


def fine_tune(
    encoder: keras.Model,
    batches: tf.data.Dataset,
    steps: int,
    classes: int,
    epochs: int = 30,
    learning_rate: float = 0.05,
    warmup_epochs: float = 1.0,
    weight_decay: float = 5e-4,
    *,
    optimizer: str = "sgdw",
    eta: float = 0.001,
    clip: bool = False,
    per_epoch: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **classifier: Any,
) -> Classifier:
    """Trains all layers with momentum, linear warm-up from 0, then cosine to 0.

    Args:
      encoder: images -> features [B,D]; changed in place.
      batches: (normalized images [B,S,S,3], labels), epochs * steps times; labels are [B] int,
        or [B,C] of 0 and 1 where an image has several.
      steps: batches per epoch.
      classes: C.
      epochs, learning_rate, warmup_epochs: of the optimizer, whose momentum is 0.9.
      weight_decay: of the optimizer; biases and norms do not decay, except with "sgd".
      optimizer: "sgdw", Keras's SGD with decoupled weight decay; "sgd", PyTorch's; or "lars".
      eta, clip: of LARS.
      per_epoch: the rate is constant within an epoch, and the first epoch of a warm-up has rate
        0 and changes nothing, as in ADIOS (`WarmupCosine`).
      callbacks: further callbacks of `fit`.
      **classifier: `batchnorm`, `head`, `seed` of `Classifier`.

    Returns:
      The trained model, images -> logits [B,C].

    Raises:
      UserError: a loss of NaN, no batch in an epoch, an unknown name, or with `per_epoch` a
        warm-up that is as long as the training.
    """
    if steps < 1:
        raise UserError("no batch to fine-tune on: fewer labeled images than one batch")
    model = Classifier(encoder, classes, **classifier)
    if per_epoch:
        rate = WarmupCosine(learning_rate, epochs, steps, int(warmup_epochs), warmup_start=0.0)
    else:
        warmup = round(min(warmup_epochs, epochs / 2) * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else learning_rate,
            max(1, epochs * steps - warmup),
            warmup_target=learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    check_choice("optimizer", optimizer, TUNERS)
    if optimizer == "sgdw":
        rule = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=weight_decay)
        rule.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        rule = build_optimizer(optimizer, rate, weight_decay, eta=eta, clip=clip)
    several = batches.element_spec[1].shape.rank == 2
    loss = "BinaryCrossentropy" if several else "SparseCategoricalCrossentropy"
    model.compile(rule, getattr(keras.losses, loss)(from_logits=True))
    with tqdm(desc="fine-tune", total=epochs * steps, delay=2) as bar:
        model.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[_Progress(bar), *callbacks],
        )
    return model
