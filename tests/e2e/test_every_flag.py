"""Every flag of bin/pretrain.py, away from its default, in a run that really trains.

A new flag makes the last test fail until a run of `RUNS` gives it.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import adios_tf.pretrained
from adios_tf.cli import flag_lines, parse
from adios_tf.programs.pretrain import list_names
from adios_tf.reporting.tables import read_jsonl
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain

TINY = "--plugins={plugin} --backbone=test_layer --image_size=16 --hidden_dim=8 --output_dim=8"
RUNS = {
    "objects": TINY
    + """ --dataset=mini --data_dir={prepared} --download --class_list={classes}
    --train_split=train[:18] --test_split=test[2:] --train_images=10 --batch_size=4 --cache=no
    --min_scale=0.3 --brightness=0.4 --contrast=0.3 --saturation=0.2 --hue=0.1
    --jitter_prob=0.7 --gray_prob=0.1 --blur_prob=0.4 --solarize_prob=0.2 --flip_prob=0.4
    --high_pass=3 --objective=simsiam --predictor_dim=4 --nosymmetric_mask --nono_mask
    --noboth_mask --constant_predictor --masking=objects --num_masks=2 --object_morph=dilation
    --morph_size=3 --object_shuffle --fill=noise --noise_std=0.3 --noise_tile=4
    --optimizer=sgd --momentum=0.8 --weight_decay=1e-4 --learning_rate=0.05
    --schedule=step --milestones=1 --epochs=2 --accumulate=2 --precision=mixed_bfloat16
    --devices=1 --seed=3 --probe_learning_rate=0.2 --knn_every=1 --knn_train_images=8
    --knn_test_images=4 --picture_every=2 --picture_images=2 --keep_checkpoints=1
    --checkpoint_steps=1 --mean=0.4,0.5,0.6 --std=0.2,0.3,0.2 --set=width=6
    --allow_changes=seed --nostop_on_collapse""",
    "sequential": TINY
    + """ --dataset={folder} --skip_broken --batch_size=8 --epochs=1 --warmup_epochs=0
    --objective=byol --ema_base=0.9 --ema_final=0.99 --masking=sequential --num_masks=2
    --clean_weight=0.5 --slot_reduction=sum --sparsity_weight=0.5
    --entropy_weight=0.1 --entropy_kind=softmax --budget=0.3,0.2 --budget_kind=at_most
    --budget_weight=50 --combination=overlap --history=masked --history_gradient
    --step_embedding --gate_temperature=0.5 --topk_cell=2 --masker_base=8 --masker_norm=in
    --masker_blocks=2 --update=simultaneous --optimizer=adamw --learning_rate=0.001
    --masker_learning_rate=0.001 --lean_memory --noresume --max_minutes=0.001""",
    "unmix_blocks": TINY
    + """ --dataset={folder} --batch_size=8 --epochs=2 --objective=moco --temperature=0.1
    --queue_size=16 --symmetric --masking=unmix_blocks --keep_ratio=0.6 --grid_size=4
    --per_image --unmix_prob=0.4 --unmix_beta=0.5 --fill=mix --partner=random
    --noschedule_per_epoch --warmup_epochs=1 --warmup_start=0.01 --lars_eta=0.001
    --nolars_clip""",
    "mscn": TINY
    + """ --dataset={folder} --batch_size=8 --epochs=1 --warmup_epochs=0 --masking=mscn
    --keep_least=0.5 --keep_most=0.9 --focal_prob=0.5 --focal_side=0.5 --channel_prob=0.5
    --masked_views=both --nooccluded_keys --interpolation=bilinear --init_from={runs}/sequential
    --init_parts=encoder --xla""",
    "patches": """ --dataset={folder} --image_size=16 --hidden_dim=8 --output_dim=8
    --train_images=8 --batch_size=8 --epochs=1 --warmup_epochs=0 --stem=small --padding=torch
    --masking=patches --patch_size=4 --fill=blur --fill_blur=0.2 --noprobe""",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder, prepared, plugin):
    """Every run of the table, trained: {name: (run folder, settings, summary)}."""
    home = tmp_path_factory.mktemp("runs")
    classes = home / "classes.txt"
    classes.write_text("cow\nant\n")
    broken = home / "broken"
    shutil.copytree(folder, broken)
    (broken / "cat" / "00.png").write_bytes(b"")
    done = {}
    for name, flags in RUNS.items():
        places = {"plugin": plugin, "prepared": prepared, "classes": classes, "runs": home}
        places["folder"] = broken if "--skip_broken" in flags else folder
        arguments = [f"--run_dir={home / name}", *flags.format(**places).split()]
        config = parse(PretrainConfig, arguments)
        done[name] = home / name, config, pretrain(config)
    return done


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_holds_everything(runs, name):
    folder, config, summary = runs[name]
    recorded = parse(PretrainConfig, [f"--flagfile={folder / 'flags.txt'}"])
    for flag in config.given:
        assert getattr(recorded, flag) == getattr(config, flag), flag
    records = read_jsonl(folder / "metrics.jsonl")
    steps = {"objects": 2, "sequential": 2, "patches": 1}.get(name, 3)
    assert [r["epoch"] for r in records] == list(range(1, config.epochs + 1))
    assert [r["step"] for r in records] == [steps * r["epoch"] for r in records]
    for record in records:
        assert {"distance", "learning_rate", "images_per_second", "feature_spread"} <= set(record)
        assert all(np.isfinite(value) for value in record.values())
    assert json.loads((folder / "summary.json").read_text()) == summary
    wanted = {"knn_pixels", "knn_untrained", "knn_trained"}
    wanted |= {"seconds", "images_per_second", "peak_memory_mb", "epochs"}
    assert wanted <= set(summary)
    assert all(0 <= summary[key] <= 1 for key in wanted if key.startswith("knn"))
    assert summary["seconds"] > 0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["keras"][0].isdigit()
    assert {"command", "commit", "python", "devices"} <= set(environment)
    checkpoints = sorted(file.name for file in folder.glob("checkpoints/*"))
    assert len(checkpoints) == min(config.keep_checkpoints, config.epochs)
    assert f"ckpt-{steps * config.epochs}" in checkpoints
    assert list((folder / "tensorboard").glob("events*"))
    for picture in ("curves.png", f"masks_{config.epochs:04d}.png"):
        with Image.open(folder / "pictures" / picture) as image:
            assert min(image.size) > 20
    report = (folder / "report.html").read_text()
    assert "<html" in report
    assert "http://" not in report
    assert "https://" not in report.replace("https://arxiv.org", "")
    model = adios_tf.pretrained.load(folder)
    assert model(np.zeros((2, 16, 16, 3), np.uint8)).shape[0] == 2
    assert model.info["step"] == steps * config.epochs


def test_what_single_flags_leave_behind(runs):
    folder, _, summary = runs["objects"]
    assert "mask_ari" not in summary  # objects are given, not learned
    assert [("knn" in r) for r in read_jsonl(folder / "metrics.jsonl")] == [True, True]
    assert not (folder / "pictures" / "masks_0001.png").exists()
    rates = [r["learning_rate"] for r in read_jsonl(folder / "metrics.jsonl")]
    assert rates[1] < rates[0] * 0.5
    assert adios_tf.pretrained.load(folder).info["class_names"] == ["cow", "ant"]
    # Noise with labels: if images of an undivided folder voted on themselves, all were right.
    assert runs["unmix_blocks"][2]["knn_pixels"] < 1
    sequential = adios_tf.pretrained.load(runs["sequential"][0])
    assert sequential.masks(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 16, 16, 2)
    assert "probe_accuracy" not in read_jsonl(runs["patches"][0] / "metrics.jsonl")[0]
    assert "probe_accuracy" in read_jsonl(runs["mscn"][0] / "metrics.jsonl")[0]


def test_a_finished_run_does_not_train_on(runs):
    folder, config, summary = runs["mscn"]
    before = {
        file: file.read_bytes()
        for file in [*folder.glob("checkpoints/*/*"), folder / "metrics.jsonl"]
    }
    weights = adios_tf.pretrained.load(folder).encoder.get_weights()
    again = pretrain(config)
    assert before == {file: file.read_bytes() for file in before}
    for one, two in zip(
        weights, adios_tf.pretrained.load(folder).encoder.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    same = [key for key in summary if key.startswith("knn") or key == "epochs"]
    assert {key: again[key] for key in same} == {key: summary[key] for key in same}


def test_the_list_of_methods(plugin, capsys):
    list_names((plugin,))
    told = capsys.readouterr().out
    for word in ("--objective", "simclr", "sequential", "mix", "test_layer", "cifar10"):
        assert word in told


def test_every_flag_is_given_in_a_run(runs):
    # --list and --replay train nothing; for --deterministic and --cluster see tests/faults.
    defaults, given = PretrainConfig(), {"list", "replay", "deterministic", "cluster"}
    for folder, _, _ in runs.values():
        config = parse(PretrainConfig, [f"--flagfile={folder / 'flags.txt'}"])
        assert read_jsonl(folder / "metrics.jsonl")
        given |= {
            field.name
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(defaults, field.name)
        }
    flags = {field.name for field in dataclasses.fields(PretrainConfig)}
    assert flags - given == set(), "give these flags another value in a run of RUNS"
    written = {line[2:].partition("=")[0] for line in flag_lines(defaults)}
    assert written == {name for name in flags if getattr(defaults, name) is not None}
