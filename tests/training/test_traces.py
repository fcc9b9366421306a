"""Nothing is traced twice: three epochs and what goes with them, a resumed run, an evaluation."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from adios_tf.encoders import BACKBONES
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.runner import evaluate
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain

CONFIG = PretrainConfig(
    backbone="test_traces",
    image_size=16,
    batch_size=8,
    hidden_dim=8,
    output_dim=4,
    num_masks=2,
    masker_base=4,
    masker_blocks=2,
    masker_norm="no",
    epochs=3,
    warmup_epochs=0,
    knn_every=1,
)


@BACKBONES.register("test_traces", "one convolution, for a test")
def tiny_backbone(name, image_size, in_channels, plan):
    x = images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.Conv2D(8, 4, strides=4, use_bias=False, name="traced")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that the encoder was traced into, one entry each."""
    found, call = [], keras.layers.Conv2D.call

    def watched(layer, inputs):
        if layer.name == "traced" and not tf.executing_eagerly():
            graph = tf.compat.v1.get_default_graph()
            # Keras infers shapes in scratch graphs, when a model is built.
            if not graph.name.startswith("scratch") and not any(g is graph for g in found):
                found.append(graph)
        return call(layer, inputs)

    monkeypatch.setattr(keras.layers.Conv2D, "call", watched)
    return found


@pytest.mark.slow
def test_no_retrace(tmp_path, graphs, monkeypatch):
    for n, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3))):
        home = tmp_path / "images" / ("ant" if n % 2 else "bee")
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"{n}.png")
    dataset, run = f"folder:{tmp_path}/images", str(tmp_path / "run")
    config = dataclasses.replace(CONFIG, dataset=dataset, run_dir=run)
    after, epoch_end = [], keras.callbacks.CallbackList.on_epoch_end

    def counted(callbacks, *args):
        epoch_end(callbacks, *args)
        after.append([graph.name for graph in graphs])

    monkeypatch.setattr(keras.callbacks.CallbackList, "on_epoch_end", counted)
    pretrain(config)
    first, second, third = after
    assert sum("one_step" in name for name in first) == 1
    assert first == second == third == [graph.name for graph in graphs]

    graphs.clear()
    pretrain(dataclasses.replace(config, epochs=5, allow_changes=("epochs",)))
    assert len(after) == 5
    assert sum("one_step" in graph.name for graph in graphs) == 1
    assert len(graphs) <= len(first)

    graphs.clear()
    given = {"protocols": ("knn", "health"), "knn_k": (3,), "batch_size": 8}
    evaluate(EvaluateConfig(run=run, dataset=dataset, **given))
    assert [graph.name for graph in graphs] == ["encode"], "21 images are no multiple of 8"
