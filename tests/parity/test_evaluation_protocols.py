"""The official linear evaluation and fine-tuning (linear_official.npz, finetune_official.npz).

Whole traces in float64 through `sgd_probe` and `fine_tune`, the functions behind the protocols.
Sizes, settings and the number of epochs are read from the files. ADIOS's `lars` is what its scripts
give in half precision, `closure_inside` what they give in 32 bits: plain SGD without weight decay.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.evaluation.finetune import fine_tune
from adios_tf.evaluation.linear import sgd_probe
from adios_tf.evaluation.metrics import rank_classes, top_accuracy

EXACT = {"rtol": 1e-9, "atol": 1e-12}
PROBES = ("lars", "no_lars", "closure_inside", "mixmask")
TUNERS = ("lars", "closure_inside")
pytestmark = pytest.mark.usefixtures("float64")


def cross_entropy(scores, labels):
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]


@pytest.mark.parametrize("kind", PROBES)
def test_linear(golden, kind):
    """Weights after every epoch, the loss of every batch, and the accuracy that is reported."""
    file = golden("linear_official")
    own = file.meta["mixmask" if kind == "mixmask" else "official_linear"]
    features, labels = file["features"] / (8 if kind == "mixmask" else 1), file["labels"]
    order, size = file["order"], file.meta["batch"]
    home = "mixmask/" if kind == "mixmask" else ""
    init = file[f"{home}init/keras/weight"], file[f"{home}init/bias"]
    count = len(file[f"{kind}/epoch1/losses"])  # with an incomplete last batch or without
    parts = [np.split(row, range(size, len(row), size))[:count] for row in order]
    trace, seen = [], []

    def batches(rows, prepare):
        inputs = prepare(features[rows])
        return lambda epoch: ((inputs[part], labels[part]) for part in parts[epoch])

    def on_epoch(epoch, bank):
        trace.append((*bank.weights(0), bank.losses[:, 0]))
        seen.append(top_accuracy(rank_classes(bank.scores(features, 0), 1), labels))

    probe = sgd_probe(
        *(features, labels) * 2,
        learning_rates=(own["lr"],),
        epochs=len(order),
        decay_epochs=own.get("schedule") or own["lr_decay_steps"],
        batch_size=size,
        batches=batches,
        optimizer="lars" if kind == "lars" else "sgd",
        eta=own.get("eta", 1.0),
        clip=own.get("clip", False),
        weight_decay=own["weight_decay"],
        head=init,
        standardize=False,
        report="best" if kind == "mixmask" else "last",
        on_epoch=on_epoch,
    )
    for epoch, (kernel, bias, losses) in enumerate(trace, 1):
        at = f"{kind}/epoch{epoch}"
        np.testing.assert_allclose(kernel, file[f"{at}/keras/weight"], **EXACT, err_msg=at)
        np.testing.assert_allclose(bias, file[f"{at}/bias"], **EXACT, err_msg=at)
        np.testing.assert_allclose(losses, file[f"{at}/losses"], **EXACT, err_msg=at)
        scores = features @ kernel + bias
        if kind == "mixmask":
            average = np.average(losses, weights=[len(part) for part in parts[epoch - 1]])
            assert average == pytest.approx(file[f"{at}/loss_avg"], rel=1e-9)
        else:
            loss = cross_entropy(scores, labels).mean()
            assert loss == pytest.approx(file[f"{at}/loss_all"], rel=1e-9)
            assert seen[epoch - 1] == file[f"{at}/acc1_all"]
    chosen = int(np.argmax(seen)) if kind == "mixmask" else -1
    np.testing.assert_array_equal(probe.kernel, trace[chosen][0])


class Trace(keras.callbacks.Callback):
    """Loss, rate and gradients before every update, weights after it; stops when told."""

    def __init__(self, batches):
        super().__init__()
        self.steps, self._batches = [], batches

    def on_train_batch_begin(self, batch, logs=None):
        images, labels = self._batches[len(self.steps)]
        with tf.GradientTape() as tape:
            loss = self.model.loss(tf.constant(labels), self.model(images, training=True))
        variables = [v.value for v in self.model.trainable_variables]
        grads = tape.gradient(loss, variables)
        rate = self.model.optimizer.learning_rate
        self.steps.append(
            {"loss": float(loss), "lr": float(rate), "grad": list(map(np.array, grads))}
        )

    def on_train_batch_end(self, batch, logs=None):
        self.steps[-1]["seen"] = logs["loss"]
        self.steps[-1]["after"] = [v.numpy() for v in self.model.weights]
        if len(self.steps) == len(self._batches):
            self.model.stop_training = True


def small_encoder(file):
    """The network of the file: 3x3 convolution, BatchNorm, ReLU, average."""
    images, kernel = file["batch1/x"], file["init/keras/backbone.conv1.weight"]
    x = inputs = keras.Input(images.shape[1:])
    x = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[0], padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, x)
    names = "conv1.weight bn1.weight bn1.bias bn1.running_mean bn1.running_var".split()
    model.set_weights([file[f"init/keras/backbone.{name}"] for name in names])
    return model, [f"backbone.{name}" for name in names] + ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("kind", TUNERS)
def test_finetune(golden, kind):
    """Three updates, one per epoch, of which the first has rate 0; BatchNorm in inference mode."""
    file = golden("finetune_official")
    own = file.meta["settings"]
    count = len(file.names("batch")) // 2
    batches = [(file[f"batch{k}/x"], file[f"batch{k}/labels"]) for k in range(1, count + 1)]
    encoder, names = small_encoder(file)
    trace = Trace(batches)
    assert own["momentum"] == 0.9
    warmup = int(re.search(r"(\d+) warm-up epochs from lr 0", own["scheduler"])[1])
    epochs = int(re.search(r"max_epochs (\d+)", own["scheduler"])[1])
    fine_tune(
        encoder,
        tf.data.Dataset.from_tensor_slices(tuple(map(np.stack, zip(*batches, strict=True)))),
        steps=1,
        classes=file.meta["classes"],
        epochs=epochs,
        learning_rate=own["lr"],
        warmup_epochs=warmup,
        # The official optimizer was told to decay; in 32 bits it does not.
        weight_decay=own["weight_decay"] if kind == "lars" else 0.0,
        batchnorm="frozen",
        optimizer="lars" if kind == "lars" else "sgd",
        eta=own["eta"],
        clip=own["clip"],
        per_epoch=True,
        head=(file["init/keras/classifier.weight"], file["init/keras/classifier.bias"]),
        callbacks=[trace],
    )
    assert len(trace.steps) == count
    learned = [name for name in names if "running" not in name]
    for k, step in enumerate(trace.steps, 1):
        assert step["loss"] == pytest.approx(file[f"{kind}/loss{k}"], rel=1e-9)
        assert step["seen"] == pytest.approx(file[f"{kind}/loss{k}"], rel=1e-9)
        assert step["lr"] == pytest.approx(file[f"{kind}/lr{k}"], rel=1e-12, abs=0)
        for stage, those in (("grad", learned), ("after", names)):
            for name, found in zip(those, step[stage], strict=True):
                wanted = file[f"{kind}/{stage}{k}/keras/{name}"]
                np.testing.assert_allclose(found, wanted, **EXACT, err_msg=f"{stage}{k} {name}")
