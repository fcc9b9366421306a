"""Whatever Keras can save comes back: configs of every class of ours, files in a fresh process."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import adios_tf
from adios_tf import losses, masking, objectives, optimizers, serialization
from adios_tf.encoders import ClassTokenAndPositions
from adios_tf.encoders.vit import build_vit
from adios_tf.masking.sequential import Recursion
from adios_tf.pretrained import PretrainedModel
from adios_tf.schedules import SCHEDULES, WarmupCosine, build_schedule

ROOT = Path(__file__).resolve().parents[1]
SAVED = ROOT / "tests" / "saved"  # written before the classes moved (0.1.0, adios_tf.artifact)
SIDE, ROWS = 8, 4
SEED = tf.constant([3, 4])
INFO = {"image_size": SIDE, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def images(rows=ROWS):
    return tf.random.stateless_normal((rows, SIDE, SIDE, 3), [1, 2])


def encoder():
    return tiny.encoder(SIDE, 5, kernel=4, strides=4)


def masker(channels=3, outputs=3):
    inputs = keras.Input((SIDE, SIDE, channels))
    return keras.Model(inputs, keras.layers.Conv2D(outputs, 3, padding="same")(inputs))


SIZES = {"hidden_dim": 6, "output_dim": 4}
SEQUENTIAL = {"num_masks": 2, "budget": (0.2, 0.3), "combination": "nested", "step_embedding": True}


def pretrainer():
    model = adios_tf.Pretrainer(
        objectives.SimSiam(encoder(), predictor_dim=3, **SIZES),
        masking.SequentialMasking(masker(4, 1), **SEQUENTIAL),
        fill=masking.Noise(0.5),
        update="simultaneous",
        probe=adios_tf.Probe(5, 3),
        seed=7,
    )
    rate = WarmupCosine(0.5, 4, 3, warmup_epochs=1)
    model.compile(
        optimizers.LARS(rate, weight_decay=1e-4),
        optimizers.AdamW(1e-3),
        predictor_optimizer=optimizers.SGD(0.05),
    )
    return model


# One of every class, with arguments that are not the defaults.
EXAMPLES = {
    "SimCLR": lambda: objectives.SimCLR(encoder(), temperature=0.5, **SIZES),
    "BYOL": lambda: objectives.BYOL(encoder(), predictor_dim=3, ema_base=0.9, **SIZES),
    "SimSiam": lambda: objectives.SimSiam(encoder(), no_mask=False, predictor_dim=3, **SIZES),
    "MoCo": lambda: objectives.MoCo(encoder(), queue_size=8, symmetric=True, **SIZES),
    "NoMasking": lambda: masking.NoMasking(name="nothing"),
    "Adversarial": lambda: masking.Adversarial(masker(), 0.5, 0.1, "softmax_joint"),
    "AdversarialOne": lambda: masking.AdversarialOne(masker(), sparsity_weight=0.5),
    "SequentialMasking": lambda: masking.SequentialMasking(masker(4, 1), **SEQUENTIAL),
    "SequentialOne": lambda: masking.SequentialOne(
        masker(4, 1), num_masks=2, budget_kind="topk", budget=(0.3,), topk_cell=2
    ),
    "Blocks": lambda: masking.Blocks(4, 0.25, per_image=True),
    "Cells": lambda: masking.Cells(4, 0.25, per_image=True),
    "MSCN": lambda: masking.MSCN(4, keep_least=0.5, keep_most=0.6, focal_side=0.5),
    "Objects": lambda: masking.Objects(3, "box", object_shuffle=True),
    "Patches": lambda: masking.Patches(2, 0.5),
    "Rectangles": lambda: masking.Rectangles(0.4),
    "UnMix": lambda: masking.UnMix(0.3, 2.0, per_image=True),
    "UnMixBlocks": lambda: masking.UnMixBlocks(4, 0.25, 0.3, 2.0, per_image=True),
    "Erase": lambda: masking.Erase(),
    "Mean": lambda: masking.Mean(),
    "Noise": lambda: masking.Noise(0.5, noise_tile=3),
    "Blur": lambda: masking.Blur(0.3),
    "Mix": lambda: masking.Mix("random"),
    "NTXent": lambda: losses.NTXent(0.5, reduction=None, name="contrast"),
    "CosineDistance": lambda: losses.CosineDistance("sum"),
    "NegativeCosine": lambda: losses.NegativeCosine(dtype="float64"),
    "InfoNCE": lambda: losses.InfoNCE(0.5, reduction=None),
    "MixMask": lambda: losses.MixMask(losses.NTXent(0.5), reduction=None),
    "SGD": lambda: optimizers.SGD(0.1, 0.8, 0.01, exclude_1d=True, accumulation_steps=2),
    "LARS": lambda: optimizers.LARS(WarmupCosine(0.5, 4, 3, 1), 0.8, 0.01, eta=0.1, clip=False),
    "AdamW": lambda: optimizers.AdamW(0.1, 0.01, exclude_1d=False, epsilon=1e-3),
    "WarmupCosine": lambda: WarmupCosine(0.5, 4, 3, 1, 0.1, 0.01, per_epoch=False),
    "Probe": lambda: adios_tf.Probe(5, 3, name="probe"),
    "PretrainedModel": lambda: PretrainedModel(INFO, encoder()),
    "ClassTokenAndPositions": lambda: ClassTokenAndPositions(name="tokens"),
    "Recursion": lambda: Recursion(
        masker(4, 1), (0.2, 0.3), 2, "projection", "overlap", "masked", True, False, 0.5, 1
    ),
    "Pretrainer": pretrainer,
}


def numbers(thing):
    """What the object computes, as a nest of arrays; a function of arguments and weights."""
    x = images()
    rows = tf.random.stateless_normal((2, ROWS, 5), [5, 6])
    truth = tf.random.stateless_uniform((ROWS, SIDE, SIDE), [1, 2], 0, 4, tf.int32)
    if isinstance(thing, objectives.Objective):
        first, second = (thing.embed(view, True, True) for view in (x, x[::-1]))
        pairs = (
            thing.symmetric(objectives.View(1), objectives.View(2)),
            thing.occluded_pairs((1, 2)),
        )
        return thing.distance(first, second), [[p.weight for p in group] for group in pairs]
    if isinstance(thing, masking.NoMasking):
        return thing.clean_weight
    if isinstance(thing, masking.Masking):
        masks = thing.masks(x, truth, SEED)
        return masks, thing.slots({1: masks}, SEED), thing.penalty({1: masks, 2: masks})
    if isinstance(thing, masking.Fill):
        return thing.cover(x, tf.cast(truth > 1, tf.float32), SEED, 1)
    if isinstance(thing, losses.InfoNCE):
        return thing((rows[0], rows[1]), rows[1])
    if isinstance(thing, losses.MixMask):
        return thing((rows[0], tf.linspace(0.0, 1.0, ROWS), tf.range(ROWS)[::-1]), rows[1])
    if isinstance(thing, keras.losses.Loss):
        return thing(*rows)
    if isinstance(thing, keras.optimizers.Optimizer):
        weights = [keras.Variable(rows[0]), keras.Variable(rows[0, 0])]
        for _ in range(4):
            thing.apply([rows[1], rows[1, 0]], weights)
        return [np.array(w) for w in weights]
    if isinstance(thing, WarmupCosine):
        return [thing(step) for step in range(12)]
    if isinstance(thing, adios_tf.Probe):
        return thing(rows[0], tf.range(ROWS) - 1)
    if isinstance(thing, ClassTokenAndPositions):
        return thing(rows)
    if isinstance(thing, adios_tf.Pretrainer):
        return step(thing)
    return thing(x)


def step(model):
    """The results of one update."""
    return {k: float(v) for k, v in model.train_step(batch()).items()}


def batch():
    return {"view1": images(), "view2": images()[:, ::-1], "label": tf.range(ROWS) % 3}


def same(ours, theirs):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


def modules():
    found = pkgutil.walk_packages(adios_tf.__path__, "adios_tf.")
    return [importlib.import_module(module.name) for module in found]


def test_every_class_is_found_by_its_name():
    """`CLASSES` lists what is registered, and every class that could be is."""
    classes = {
        value
        for module in modules()
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    registered = {c for c in classes if keras.saving.get_registered_name(c) != c.__name__}
    listed = {f"{m}.{n}" for m, names in serialization.CLASSES.items() for n in names.split()}
    assert {f"{c.__module__}.{c.__name__}" for c in registered} == listed
    kinds = (keras.layers.Layer, keras.losses.Loss, keras.optimizers.Optimizer)
    kinds += (keras.optimizers.schedules.LearningRateSchedule,)
    bases = {c.__name__ for c in classes - registered if issubclass(c, kinds)}
    assert bases == {
        *("Objective", "MomentumObjective", "Masking", "GridMasking", "OneSlot", "Fill", "Paint"),
        *("_EmbeddingLoss", "_Contrastive", "_Optimizer"),
        "Classifier",  # of fine-tuning, never saved
    }
    assert set(EXAMPLES) == {c.__name__ for c in registered}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_config_comes_back(name):
    keras.utils.set_random_seed(0)
    thing = EXAMPLES[name]()
    text = json.dumps(keras.saving.serialize_keras_object(thing))
    assert json.loads(text)["registered_name"] == f"adios_tf>{name}"
    keras.utils.set_random_seed(1)
    again = keras.saving.deserialize_keras_object(json.loads(text), safe_mode=True)
    assert type(again) is type(thing)
    assert json.dumps(keras.saving.serialize_keras_object(again)) == text
    if isinstance(thing, keras.layers.Layer):
        if not thing.built:
            for layer in (thing, again):
                numbers(layer)
        again.set_weights(thing.get_weights())
    same(numbers(again), numbers(thing))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_name_come_back(name):
    rate = build_schedule(name, 0.5, 8, 3, warmup_epochs=2, milestones=(2, 5))
    optimizer = optimizers.SGD(rate)
    text = json.dumps(keras.saving.serialize_keras_object(optimizer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    for _ in range(24):
        assert float(again.learning_rate) == float(optimizer.learning_rate)
        for each in (again, optimizer):
            each.build([])
            each._iterations.assign_add(1)


ORDERS = (
    "import adios_tf, keras",
    "import keras, adios_tf",
    "import importlib.util, adios_tf; importlib.util.find_spec('keras'); "
    "import adios_tf.masking, keras",
)
PROGRAM = """
import json, sys
import numpy as np
saved, made = sys.argv[1:]
stored = np.load(f"{saved}/expected.npz")
images = stored["images"].astype("f4")
read = lambda path: keras.models.load_model(path, safe_mode=True)
old = read(f"{saved}/user_model.keras")
np.testing.assert_allclose(old(images), stored["logits"], atol=1e-5)
assert old.optimizer.get_config()["learning_rate"]["config"]["base"] == 0.5
assert int(old.optimizer.iterations) == 2 and len(old.optimizer.variables) > 2
masks = read(f"{saved}/masker.keras")((images[:, :16, :16] - 0.5) / 0.25)
np.testing.assert_allclose(masks, stored["masks"], atol=1e-5)
new = read(f"{made}/user_model.keras")
np.testing.assert_allclose(new(images), np.load(f"{made}/logits.npy"), atol=1e-5)
batch = dict(np.load(f"{made}/batch.npz"))
pretrainer = read(f"{made}/pretrainer.keras")
print(json.dumps({k: float(v) for k, v in pretrainer.train_step(batch).items()}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files as they are saved today, and what their models give."""
    folder = tmp_path_factory.mktemp("made")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((20, 24, 3))
    pretrained = PretrainedModel(INFO, build_vit(SIDE, width=8, heads=2, depth=1, patch=4))
    model = keras.Model(inputs, keras.layers.Dense(2)(pretrained(inputs)))
    model.compile(optimizers.AdamW(0.1), losses.NTXent(0.3))
    model.save(folder / "user_model.keras")
    shown = np.load(SAVED / "expected.npz")["images"].astype("f4")
    np.save(folder / "logits.npy", model(shown))
    trainer = pretrainer()
    step(trainer)
    trainer.save(folder / "pretrainer.keras")
    np.savez(folder / "batch.npz", **batch())
    for mean in trainer.metrics:
        mean.reset_state()
    (folder / "next.json").write_text(json.dumps(step(trainer)))
    return folder


@pytest.mark.parametrize("order", ORDERS)
def test_files_load_in_a_fresh_process(made, order):
    """Also those that an earlier version wrote, and a Pretrainer goes on where it was."""
    command = [sys.executable, "-c", order + PROGRAM, SAVED, made]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = json.loads((made / "next.json").read_text())
    assert json.loads(done.stdout) == pytest.approx(expected, rel=1e-6)
