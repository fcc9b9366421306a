"""Accuracy per background variant."""

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.evaluation.backgrounds import VARIANTS, background_scores, challenge_folders


def test_by_hand():
    correct = {
        "original": np.array([True, True, True, False]),
        "mixed_same": np.array([True, True, False, False]),
        "mixed_rand": np.array([True, False, False, False]),
    }
    assert background_scores(correct) == {
        "original": 0.75,
        "mixed_same": 0.5,
        "mixed_rand": 0.25,
        "bg_gap": 0.25,
    }
    assert "bg_gap" not in background_scores({"original": np.array([True])})
    with pytest.raises(UserError, match="no images"):
        background_scores({"original": np.array([], bool)})


def challenge(root, variants=VARIANTS, classes=9):
    for variant in variants:
        for label in range(classes):
            (root / variant / "val" / f"{label:02d}_x").mkdir(parents=True)
    for label in range(classes):
        (root / "original" / "train" / f"{label:02d}_x").mkdir(parents=True)


def test_the_published_folders(tmp_path):
    challenge(tmp_path)
    train, variants = challenge_folders(tmp_path)
    assert train == tmp_path / "original" / "train"
    assert list(variants) == list(VARIANTS)
    assert variants["no_fg"] == tmp_path / "no_fg" / "val"


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match="no backgrounds challenge"):
        challenge_folders(tmp_path)
    challenge(tmp_path / "few", classes=8)
    with pytest.raises(UserError, match="8 class folders"):
        challenge_folders(tmp_path / "few")
    (tmp_path / "bare" / "original" / "val").mkdir(parents=True)
    with pytest.raises(UserError, match="train is missing"):
        challenge_folders(tmp_path / "bare")
