"""Fine-tuning of the whole encoder, with all labels or with a few.

The official ADIOS code keeps BatchNorm in inference mode while it fine-tunes
(`batchnorm="frozen"` here); the default lets the statistics follow the new data.
Departures: Keras's decoupled weight decay, no LARS, a head that starts from zero.
"""

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.errors import UserError

BATCHNORM = ("train", "frozen")


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

    The encoder is taken as it is, not copied, and becomes trainable.

    Args:
      encoder: images -> features [B,D].
      classes: C.
      batchnorm: "train" uses and updates batch statistics in training; "frozen" keeps the
        encoder in inference mode, with the statistics of pretraining.

    Raises:
      UserError: another `batchnorm`.
    """

    def __init__(self, encoder: keras.Model, classes: int, batchnorm: str = "train"):
        super().__init__()
        if batchnorm not in BATCHNORM:
            raise UserError(f"batchnorm {batchnorm!r}: choose one of {', '.join(BATCHNORM)}")
        encoder.trainable = True
        self.encoder = encoder
        # From zero the first logits do not depend on any seed, and no class is favored.
        self.head = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32")
        self.head.build(encoder.output_shape)
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
    momentum: float = 0.9,
    batchnorm: str = "train",
    progress: bool = True,
) -> Classifier:
    """Trains all layers with SGD, linear warm-up from 0, then cosine to 0.

    Args:
      encoder: images -> features [B,D]; changed in place.
      batches: (normalized images [B,S,S,3], labels [B]), epochs * steps times.
      steps: batches per epoch.
      classes: C.
      epochs, learning_rate, warmup_epochs, weight_decay, momentum: of SGD; biases and norms
        do not decay.
      batchnorm: see `Classifier`.
      progress: shows a bar when it takes longer than two seconds.

    Returns:
      The trained model, images -> logits [B,C].

    Raises:
      UserError: a loss of NaN, no batch in an epoch, or an unknown `batchnorm`.
    """
    if steps < 1:
        raise UserError("no batch to fine-tune on: fewer labeled images than one batch")
    model = Classifier(encoder, classes, batchnorm)
    warmup = round(min(warmup_epochs, epochs / 2) * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        max(1, epochs * steps - warmup),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.SGD(rate, momentum=momentum, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    with tqdm(desc="fine-tune", total=epochs * steps, delay=2, disable=not progress) as bar:
        model.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[_Progress(bar)],
        )
    return model
