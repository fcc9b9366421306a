"""What is measured during training is what is measured afterwards."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from adios_tf import pretrained
from adios_tf.data import describe, load_examples
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.evaluation.runner import evaluate
from adios_tf.training.config import PretrainConfig


@pytest.mark.parametrize("layout", ["undivided", "train alone"])
def test_knn_of_a_folder_agrees_with_the_protocol(layout, make_run, tmp_path):
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    for n in range(60):  # faintly colored noise, so that some votes go wrong
        image = (
            rng.integers(0, 200, (32, 32, 3)) + rng.integers(0, 3, (32, 32, 3)) * np.eye(3)[n % 3]
        )
        file = folder / ("train" if layout == "train alone" else "") / f"class{n % 3}" / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(file)
    run = make_run(tmp_path / "run", dataset=f"folder:{folder}")
    model = pretrained.load(run)
    facts = {name: tuple(model.info[name]) for name in ("mean", "std")}
    info = dataclasses.replace(describe(str(folder), 32), **facts)
    config = PretrainConfig(dataset=str(folder), image_size=32)
    trained = SimpleNamespace(inference_encoder=model.encoder)
    online = OnlineEvaluator(config, info, load_examples(info, "train"), trained).knn()["knn"]
    rows = evaluate(EvaluateConfig(run=str(run), protocols=("knn",), knn_k=(20,)))
    (after,) = [row.mean for row in rows if row.metric == "top1"]
    assert online == pytest.approx(after)
    assert 0 < online < 1
