"""Comparing evaluated run folders."""

import json

import numpy as np
import pytest
from PIL import Image

from adios_tf.errors import UserError
from adios_tf.evaluation.compare_runs import compare_runs, group_names, load_runs
from adios_tf.evaluation.results import Row, write_results


def evaluated(folder, value, seed=0, flags="--masking=none", correct=None):
    if flags is not None:
        folder.mkdir(parents=True)
        lines = [flags, f"--seed={seed}", f"--run_dir={folder}", "--objective=simclr"]
        (folder / "flags.txt").write_text("\n".join(lines) + "\n")
    line = f"python bin/evaluate.py --run={folder} --protocols=knn --dataset=shapes"
    row = Row("knn", "shapes", "top1", "k=20", (value,), {}, line, 1.0, correct)
    write_results(folder / "evaluation" / "shapes", [row], {})
    return str(folder)


def test_groups_are_called_by_what_differs():
    plain = {"objective": "simclr", "masking": "none", "seed": "0", "run_dir": "a"}
    names = group_names(
        {
            "a": plain,
            "b": plain | {"seed": "1", "run_dir": "b"},
            "c": plain | {"masking": "adversarial", "num_masks": "4"},
            "runs/imported": {},
        }
    )
    assert names == {
        "a": "masking=none",
        "b": "masking=none",
        "c": "masking=adversarial num_masks=4",
        "runs/imported": "imported",
    }
    assert group_names({"a": plain, "b": plain}) == {"a": "same settings", "b": "same settings"}


def test_seeds_side_by_side(tmp_path):
    paths = [evaluated(tmp_path / f"p{s}", 0.5 + 0.01 * s, s) for s in range(3)]
    paths += [
        evaluated(tmp_path / f"a{s}", 0.6 + 0.02 * s, s, "--masking=adversarial") for s in range(3)
    ]
    table = compare_runs(paths, tmp_path / "out")
    assert "51.00 ± 1.00" in table
    assert "62.00 ± 2.00" in table
    assert "+11.00" in table
    assert "paired t-test over 3 seeds" in table
    assert f"masking=adversarial: {', '.join(paths[3:])}" in table
    assert (tmp_path / "out" / "compare.txt").read_text() == table + "\n"
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert [row["mean"] for row in rows] == pytest.approx([0.51, 0.62])
    assert rows[0]["row"] == "shapes knn k=20 top1"
    assert len((tmp_path / "out" / "compare.csv").read_text().splitlines()) == 3
    assert Image.open(tmp_path / "out" / "compare.png").size[0] > 200


def test_two_runs_by_their_images(tmp_path):
    hits = np.arange(40) % 2 == 0
    paths = [
        evaluated(tmp_path / "a", 0.5, correct=hits),
        evaluated(tmp_path / "b", 0.7, flags="--masking=mae", correct=hits | (np.arange(40) < 16)),
    ]
    [_, second] = [line for line in compare_runs(paths, tmp_path).splitlines() if "knn" in line]
    assert "McNemar" in second
    assert f"{2 / 2**8:.3g}" in second


def test_bad_input(tmp_path):
    done = evaluated(tmp_path / "a", 0.5)
    with pytest.raises(UserError, match="two runs"):
        compare_runs([done, done], tmp_path)
    with pytest.raises(UserError, match="holds no evaluation"):
        load_runs([done, str(tmp_path / "nowhere")])
