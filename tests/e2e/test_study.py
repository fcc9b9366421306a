"""bin/study.py: every method of a list, over seeds, in one table."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from adios_tf.errors import UserError
from adios_tf.evaluation.results import Row
from adios_tf.training import study
from adios_tf.training.study import StudyConfig

ROOT = Path(__file__).resolve().parents[2]
METHODS = """# two that work
plain: --objective=simclr --masking=none

hidden blocks: --objective=simclr --masking=blocks --grid_size=4
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, prepared):
    """Returns the flags of a small study and the folder that it may write."""
    here = tmp_path_factory.mktemp("study")
    (here / "tiny.flags").write_text(
        f"--dataset=mini\n--data_dir={prepared}\n--backbone=convnet_small\n--image_size=16\n--hidden_dim=8\n"
        "--output_dim=8\n--batch_size=8\n--epochs=1\n--warmup_epochs=0\n--optimizer=adamw\n"
        "--learning_rate=0.001\n"
    )
    (here / "methods.txt").write_text(METHODS)
    return here


def settings(files, **changed):
    given = {"base": (str(files / "tiny.flags"),), "methods": str(files / "methods.txt")}
    return StudyConfig(**given | {"out": str(files / "out"), "seeds": (0, 1)} | changed)


@pytest.fixture(scope="module")
def finished(files):
    """Runs the program once, with a method that cannot start."""
    (files / "methods.txt").write_text(METHODS + "lost: --init_from=nothing/here\n")
    flags = [
        f"--base={files / 'tiny.flags'}",
        f"--methods={files / 'methods.txt'}",
        f"--out={files / 'out'}",
        "--seeds=0,1",
        "--jobs=2",
        "--rounds=1",
    ]
    done = subprocess.run(
        [sys.executable, "bin/study.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    (files / "methods.txt").write_text(METHODS)
    assert done.returncode == 0, done.stderr
    return done


def test_one_table_of_all_that_could_run(files, finished):
    rows = json.loads((files / "out" / "study.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["plain", "hidden blocks"]
    for row in rows:
        assert row["seeds"] == len(row["knn"]["values"]) == len(row["linear"]["values"]) == 2
        assert row["seconds_per_step"] > 0
        assert row["mask_ari"] is None
    plain, blocks = rows
    assert plain["verdict"] == "the plain method"
    assert plain["gain"] is None
    assert blocks["plain"] == "plain"
    assert blocks["gain"] == pytest.approx(blocks["linear"]["mean"] - plain["linear"]["mean"])
    assert "hidden blocks" in finished.stdout
    assert (files / "out" / "tiny.png").exists()
    left_out = [line for line in finished.stderr.splitlines() if "not in the table" in line]
    assert len(left_out) == 2
    assert all("no pretrained model in nothing/here" in line for line in left_out)


def test_a_study_goes_on_where_it_stopped(files, finished, monkeypatch):
    made = []
    monkeypatch.setattr(study.subprocess, "run", lambda *a, **k: made.append(a))
    rows = study.study(settings(files, rounds=0))
    assert made == []
    assert len(rows) == 2


def test_a_sweep_is_a_grid_with_hparams(files, tmp_path, monkeypatch):
    """Two by two points of the base alone; each a method of the study."""
    monkeypatch.setattr(study, "_train", lambda runs, config: {})
    sweep = "--masker_learning_rate=0.01,0.1;--num_masks=3,4"
    given = settings(files, methods=StudyConfig.methods, sweep=sweep, out=str(tmp_path), rounds=0)
    runs = study.plan(given)
    points = {run.method: run.config for run in runs}
    assert list(points)[:2] == [f"masker_learning_rate=0.01 num_masks={n}" for n in (3, 4)]
    assert len(runs) == 8  # of two seeds
    last = points["masker_learning_rate=0.1 num_masks=4"]
    assert (last.masker_learning_rate, last.num_masks, last.epochs) == (0.1, 4, 1)
    for run in runs:
        scores = {"knn": run.config.num_masks / 10, "linear": 0.5}
        rows = [Row(k, "mini", "top1", "", (v,), {}, "").record() for k, v in scores.items()]
        run.results.mkdir(parents=True)
        (run.results / "results.json").write_text(json.dumps({"rows": rows}))
    rows = study.study(given)
    assert [row["knn"]["mean"] for row in rows] == [0.3, 0.4, 0.3, 0.4]
    found = {}
    for events in (tmp_path / "tensorboard").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    hparams = data.session_start_info.hparams
                    found[events.parent] = {k: v.string_value for k, v in hparams.items()}
    assert len(found) == 8
    assert {point["num_masks"] for point in found.values()} == {"3", "4"}
    both = settings(files, sweep="--num_masks=3,4", out=str(tmp_path / "both"))
    assert len({run.method for run in study.plan(both)}) == 4  # each method at each point
    for wrong in ("--num_masks", "num_masks=3", "--num_masks="):
        with pytest.raises(UserError, match=r"--sweep: .* should be"):
            study.plan(settings(files, sweep=wrong))


def test_half_an_evaluation_is_not_done(files, finished, tmp_path):
    runs = study.plan(settings(files))
    assert all(run.done for run in runs)
    shutil.copytree(runs[0].folder, tmp_path / "run")
    cut = dataclasses.replace(
        runs[0], config=dataclasses.replace(runs[0].config, run_dir=str(tmp_path / "run"))
    )
    assert cut.done
    results = cut.results / "results.json"
    whole = json.loads(results.read_text())
    whole["rows"] = [row for row in whole["rows"] if row["protocol"] == "knn"]
    results.write_text(json.dumps(whole))
    assert not cut.done


def test_other_settings_are_not_mixed_in(files, finished, tmp_path):
    other = tmp_path / "tiny.flags"
    other.write_text((files / "tiny.flags").read_text() + "--epochs=3\n")
    shutil.copytree(files / "out", tmp_path / "out")
    with pytest.raises(UserError, match="other settings"):
        study.plan(settings(files, base=(str(other),), out=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no method"),
        ("simclr --masking=none\n", "line 1: write"),
        ("a: --seed=1\na: --seed=2\n", "already"),
        ("a: --maskin=none\n", "a with .*maskin"),
        ("a: --masking=none --fill=mix\n", "hides nothing"),
    ],
)
def test_mistakes_are_told_before_anything_runs(files, tmp_path, text, reason):
    (tmp_path / "methods.txt").write_text(text)
    with pytest.raises(UserError, match=reason):
        study.plan(settings(files, methods=str(tmp_path / "methods.txt"), out=str(tmp_path / "o")))


def test_missing_files_and_bases_of_one_name(files, tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        study.plan(settings(files, methods=str(tmp_path / "none.txt")))
    with pytest.raises(UserError, match="one name"):
        study.plan(settings(files, base=(str(files / "tiny.flags"), "elsewhere/tiny.flags")))


def fake(folder, method, seed, linear, masking="blocks"):
    from adios_tf.training.config import PretrainConfig

    run = study.Run("b", method, PretrainConfig(run_dir=str(folder), seed=seed, masking=masking))
    run.results.mkdir(parents=True)
    scores = (("linear", "top1", linear), ("linear", "top5", 0.99), ("knn", "top1", linear / 2))
    rows = [Row(p, "b", metric, "", (v,), {}, "").record() for p, metric, v in scores]
    (run.results / "results.json").write_text(json.dumps({"rows": rows}))
    (run.folder / "summary.json").write_text(json.dumps({"mask_ari": 0.1, "knn_pixels": 0.2}))
    return run


def test_verdicts(tmp_path):
    """Gains over the plain method of the same seeds: a steady one is clear, a mixed one is not."""
    table = {
        "plain": (0.50, 0.52, 0.51),
        "better": (0.60, 0.621, 0.611),
        "worse": (0.40, 0.421, 0.409),
        "mixed": (0.45, 0.60, 0.51),
    }
    runs = [
        fake(tmp_path / f"{name}{seed}", name, seed, value, "none" if name == "plain" else "blocks")
        for name, values in table.items()
        for seed, value in enumerate(values)
    ]
    rows = {row["method"]: row for row in study.compare_methods(runs, {"plain": 0.5})}
    verdicts = {name: row["verdict"] for name, row in rows.items()}
    assert verdicts == {
        "plain": "the plain method",
        "better": "helps",
        "worse": "hurts",
        "mixed": "no clear difference",
    }
    assert rows["better"]["gain"] == pytest.approx(0.1007, abs=1e-3)
    assert rows["plain"]["linear"]["std"] == pytest.approx(0.01)
    assert rows["plain"]["knn"]["mean"] == pytest.approx(0.255)
    text = study.study_table(list(rows.values()))
    assert "51.0 ± 1.0" in text
    assert "+10.1" in text
    assert "kNN of raw pixels, %: 20.0" in text
    alone = study.compare_methods([run for run in runs if run.method == "better"], {})
    assert [row["verdict"] for row in alone] == ["no plain method in the list"]
