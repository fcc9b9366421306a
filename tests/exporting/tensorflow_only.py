"""Answers from SavedModels in a process that can import TensorFlow but neither adios_tf nor Keras.

python tensorflow_only.py FOLDER: FOLDER/NAME is an export, FOLDER/NAME.npz holds its inputs
(images, uint8) and is rewritten as NAME.answers.npz, one array per signature and output.
"""

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path

BLOCKED = ("adios_tf", "keras", "keras_cv", "tensorflow_datasets", "tf_keras", "sklearn", "PIL")


class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """TensorFlow may look where Keras lies, but whoever imports it fails."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            return importlib.machinery.ModuleSpec(name, self, origin="/nowhere/__init__.py")

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is not installed here")

    def exec_module(self, module):
        raise AssertionError


sys.meta_path.insert(0, Blocker())

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

for name in BLOCKED:
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported: the test proves nothing")

for file in Path(sys.argv[1]).glob("*.npz"):
    images = np.load(file)["images"]
    files = [tf.io.encode_png(image).numpy() for image in images]
    broken = [files[0][:60], b"", b"no image", files[1]]
    answers = {}
    for key, signature in tf.saved_model.load(str(file.with_suffix(""))).signatures.items():
        if key.endswith("_bytes"):
            given = {"": files, "/broken": broken}
        elif key.endswith("_uint8"):
            given = {"": images}
        else:
            given = {"": images.astype(np.float32) / 255}
        for suffix, batch in given.items():
            argument = "bytes" if key.endswith("_bytes") else "images"
            for output, values in signature(**{argument: tf.constant(batch)}).items():
                answers[f"{key}{suffix}/{output}"] = values.numpy()
    np.savez(file.with_name(f"{file.stem}.answers"), **answers)
assert not set(BLOCKED) & set(sys.modules)
