"""Plots: that they are written, in color, and show what they are given."""

import numpy as np
from PIL import Image

from adios_tf.evaluation import plots
from adios_tf.evaluation.significance import Comparison


def ink(path):
    """Share of pixels that are not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_rows(tmp_path):
    records = [
        {"protocol": "knn", "label": "shapes knn top1", "value": v, "std": s}
        for v, s in ((0.2, None), (0.9, 0.1))
    ]
    path = plots.plot_rows(records, tmp_path / "new" / "rows.png")
    longer = plots.plot_rows([{**r, "value": 0.9} for r in records], tmp_path / "longer.png")
    assert ink(longer) > ink(path) > 0.02


def test_corruptions(tmp_path):
    accuracy = {(name, level): 0.9 - 0.1 * level for name in ("jpeg", "noise") for level in (1, 3)}
    assert ink(plots.plot_corruptions(0.95, accuracy, tmp_path / "c.png")) > 0.01


def test_comparison(tmp_path):
    nan = float("nan")
    rows = [
        Comparison("knn", "a", 2, 0.5, 0.1, (0.4, 0.6), 0.0, nan, ""),
        Comparison("knn", "b", 1, 0.8, nan, (0.8,), 0.3, 0.01, "t"),
        Comparison("ari", "a", 2, -0.1, 0.0, (-0.1, -0.1), 0.0, nan, ""),
        Comparison("ari", "b", 1, -0.1, nan, (-0.1,), 0.0, 1.0, "t"),
    ]
    assert ink(plots.plot_comparison(rows, tmp_path / "p.png")) > 0.02
