"""Protocols on a tiny run: rows, files, repeatability, and one line for every mistake."""

import csv
import dataclasses
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from adios_tf import cli, pretrained
from adios_tf.errors import UserError
from adios_tf.evaluation.config import EvaluateConfig, joined
from adios_tf.evaluation.context import EvaluationContext
from adios_tf.evaluation.protocols import PROTOCOLS
from adios_tf.evaluation.runner import evaluate
from adios_tf.programs.evaluate import main as program

QUICK = {
    "train_images": 240,
    "test_images": 90,
    "knn_k": (5, 20),
    "knn_distance": ("cosine", "euclidean"),
    "probe_strengths": (0.1, 0.01),
    "sgd_learning_rates": (0.03, 0.3),
    "sgd_epochs": 2,
    "sgd_decay_epochs": (1,),
    "finetune_epochs": 1,
    "finetune_steps": 3,
    "finetune_batch_size": 64,
    "label_fractions": (0.05,),
    "cluster_starts": 1,
    "corruptions": ("contrast", "gaussian_noise"),
    "severities": (1, 5),
    "corruption_images": 40,
    "mask_images": 30,
}


def settings(run, **changed):
    return EvaluateConfig(**{"run": str(run), **QUICK, **changed})


@pytest.fixture(scope="module")
def everything(run, tmp_path_factory):
    """All protocols at once: (rows, folder)."""
    out = tmp_path_factory.mktemp("results")
    config = settings(run, protocols=tuple(PROTOCOLS), out=str(out))
    return evaluate(config), out


def test_every_protocol_yields_its_rows(everything):
    rows, _ = everything
    assert set(PROTOCOLS) == {row.protocol for row in rows}
    counts = {name: sum(row.protocol == name for row in rows) for name in PROTOCOLS}
    assert counts == {
        "knn": 8,
        "linear": 2,
        "linear_sgd": 2,
        "linear_augmented": 2,
        "finetune": 2,
        "semi": 2,
        "clustering": 3,
        "masks": 24,
        "backgrounds": 6,
        "corruptions": 5,
        "health": 6,
    }
    assert len({row.recipe for row in rows}) == len(rows)
    for row in rows:
        assert np.isfinite(row.values).all(), row.label
        assert row.settings["image"] == "32 px, squash"
        assert row.settings["features"] == "backbone"
        assert row.seconds > 0
        assert row.dataset == "shapes"
        if row.metric == "top1":
            assert row.correct is not None or row.protocol == "corruptions"
            assert 0 <= row.mean <= 1
        if row.correct is not None:
            assert row.correct.mean() == pytest.approx(row.values[0])


def test_rows_say_how_they_were_made(everything):
    rows, _ = everything
    found = {(row.protocol, row.variant, row.metric): row for row in rows}
    knn = found["knn", "k=20 cosine", "top1"].settings
    assert (knn["k"], knn["T"], knn["normalization"], knn["train"]) == (20, 0.07, "l2", 240)
    semi = found["semi", "5% labels", "top1"]
    assert 9 <= semi.settings["labeled images"] <= 18  # one or two of each class
    assert semi.settings["epochs"] == 3
    augmented = found["linear_augmented", "", "top1"]
    assert augmented.settings["augmentation"] == "shift by up to 4 px, flip"
    assert float(augmented.settings["validation"]) > 0
    learned, random = (found["masks", name, "ari"] for name in ("learned", "random"))
    assert learned.settings["slots"] == 3
    assert learned.mean != random.mean
    gap = found["backgrounds", "mixed_same - mixed_rand", "gap"]
    accuracy = {row.variant: row.mean for row in rows if row.protocol == "backgrounds"}
    assert gap.mean == pytest.approx(accuracy["mixed_same"] - accuracy["mixed_rand"])
    assert set(accuracy) >= {"original", "only_bg", "only_fg"}
    error = found["corruptions", "", "corruption_error"]
    kinds = [found["corruptions", name, "top1"].mean for name in QUICK["corruptions"]]
    assert error.mean == pytest.approx(1 - np.mean(kinds))


def test_files_are_written(everything):
    rows, out = everything
    results = json.loads((out / "results.json").read_text())
    assert [r["value"] for r in results["rows"]] == pytest.approx([row.mean for row in rows])
    assert results["image"] == "32 px, squash"
    table = (out / "table.txt").read_text()
    assert len(table.splitlines()) == len(rows) + 2
    assert all(row.command in table for row in rows)
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    for name in ("results.png", "corruptions.png"):
        assert min(Image.open(out / name).size) > 200


REPEATED = (
    ("knn", "k=5 euclidean", "top5"),
    ("linear_augmented", "", "top1"),
    ("semi", "5% labels", "top1"),
    ("masks", "random", "covering"),
    ("backgrounds", "only_bg", "top1"),
    ("corruptions", "gaussian_noise", "top1"),
)


@pytest.mark.parametrize("key", REPEATED, ids=lambda key: f"{key[0]} {key[1]}")
def test_the_command_beside_a_row_makes_it_again(everything, key, tmp_path):
    rows, _ = everything
    [row] = [r for r in rows if (r.protocol, r.variant, r.metric) == key]
    arguments = shlex.split(row.command)
    assert arguments[:2] == ["python", "bin/evaluate.py"]
    config = cli.parse(EvaluateConfig, arguments[2:])
    again = evaluate(dataclasses.replace(config, out=str(tmp_path)))
    [match] = [r for r in again if (r.protocol, r.variant, r.metric) == key]
    assert match.values == row.values
    assert match.command == row.command
    assert match.settings == row.settings


def test_any_batch_size_gives_the_same_numbers(everything, run, tmp_path):
    rows, _ = everything
    names = ("knn", "linear", "clustering", "masks")
    config = settings(run, protocols=names, batch_size=17, out=str(tmp_path))
    other = {r.label: r.values for r in evaluate(config)}
    for row in rows:
        if row.protocol in names:
            assert other[row.label] == pytest.approx(row.values, abs=1e-6), row.label


def test_evaluation_changes_no_weight(everything, run):
    """Fine-tuning works on a copy; everything else in inference mode."""
    fresh, after = pretrained.load(run), pretrained.load(run)
    config = settings(run, protocols=("knn", "linear_augmented", "semi"), out=str(run / "x"))
    loaded = []
    original = pretrained.load
    try:
        pretrained.load = lambda path: loaded.append(original(path)) or loaded[-1]
        evaluate(config)
    finally:
        pretrained.load = original
    assert len(loaded) == 1 + len(QUICK["label_fractions"])
    for part in ("encoder", "projector", "masker"):
        for old, new in zip(
            getattr(fresh, part).weights, getattr(loaded[0], part).weights, strict=True
        ):
            np.testing.assert_array_equal(old.numpy(), new.numpy())
    tuned = zip(after.encoder.weights, loaded[1].encoder.weights, strict=True)
    assert any((a.numpy() != b.numpy()).any() for a, b in tuned)


def test_results_go_beside_the_run_and_add_up(run, capsys):
    evaluate(settings(run, protocols=("clustering",)))
    evaluate(settings(run, protocols=("knn",), knn_distance=("cosine",)))
    folder = run / "evaluation" / "shapes"
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert {r["protocol"] for r in rows} == {"clustering", "knn"}
    shown = capsys.readouterr().out
    assert "240 train and 90 test images" in shown
    assert f"written to {folder}" in shown
    evaluate(settings(run, protocols=("clustering",), name="mine"))
    assert (run / "evaluation" / "mine" / "table.txt").exists()


def test_transfer_to_a_folder_of_images(run, pictures, tmp_path):
    """Sizes differ from pretraining's; colors tell the classes apart even through this net."""
    config = EvaluateConfig(
        run=str(run),
        dataset=str(pictures),
        protocols=("knn", "linear", "semi"),
        knn_k=(5,),
        label_fractions=(0.5,),
        finetune_epochs=1,
        finetune_steps=2,
        out=str(tmp_path),
    )
    rows = {(r.protocol, r.metric): r for r in evaluate(config)}
    assert rows["linear", "top1"].mean > 0.8
    assert rows["knn", "top1"].settings["train"] == 48
    assert rows["semi", "top1"].settings["labeled images"] == 24
    assert f"--dataset={pictures}" in rows["knn", "top1"].command


def test_a_kept_classifier_is_the_probe(make_run, tmp_path):
    run = make_run(tmp_path / "kept")
    config = settings(run, protocols=("linear",), save_classifier=True)
    [top1, _] = evaluate(config)
    model = pretrained.load(run)
    context = EvaluationContext(dataclasses.replace(config, dataset="shapes"), model)
    logits = model.classifier.predict(context.features(context.test), verbose=0)
    np.testing.assert_array_equal(logits.argmax(1) == context.test.labels, top1.correct)
    with pytest.raises(UserError, match="backbone features"):
        evaluate(dataclasses.replace(config, features="pixels"))


def test_seeds_give_a_spread(run, tmp_path):
    config = settings(run, protocols=("linear",), seeds=(0, 1, 2), out=str(tmp_path))
    top1 = evaluate(config)[0]
    assert len(top1.values) == 3
    assert "--seeds=0,1,2" in top1.command
    records = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert records[0]["std"] == pytest.approx(np.std(top1.values, ddof=1))


def test_projector_and_pixels(run, tmp_path):
    values = {}
    for layer in ("backbone", "projector", "pixels"):
        config = settings(run, features=layer, protocols=("knn",), knn_k=(5,), out=str(tmp_path))
        rows = evaluate(config)
        values[layer] = tuple(row.mean for row in rows)
        assert rows[0].settings["features"] == layer
        assert (f"--features={layer}" in rows[0].command) == (layer != "backbone")
    assert len(set(values.values())) == 3


def refused(match, run, **changed):
    with pytest.raises(UserError, match=match) as caught:
        evaluate(settings(run, **changed))
    assert "\n" not in str(caught.value)


def test_mistakes(run, pictures, tmp_path):
    out = {"out": str(tmp_path)}
    refused("name what to evaluate", "")
    refused("no pretrained model", tmp_path)
    refused("did you mean 'linear'", run, protocols=("lnear",))
    refused("name protocols", run, protocols=())
    refused("seed", run, seeds=())
    refused("did you mean 'euclidean'", run, protocols=("knn",), knn_distance=("euclid",), **out)
    refused("choose k between", run, protocols=("knn",), knn_k=(241,), **out)
    refused(
        "no ground-truth masks",
        run,
        protocols=("masks",),
        dataset=str(pictures),
        train_images=0,
        test_images=0,
        **out,
    )
    refused(
        "no background variants",
        run,
        protocols=("backgrounds",),
        dataset=str(pictures),
        train_images=0,
        test_images=0,
        **out,
    )
    refused(
        "background variant", run, protocols=("backgrounds",), background_variants=("mixed",), **out
    )
    refused(
        "did you mean 'contrast'", run, protocols=("corruptions",), corruptions=("contras",), **out
    )
    refused(
        "train the encoder|trains the encoder", run, protocols=("semi",), features="pixels", **out
    )
    refused(
        "use --features=backbone", run, protocols=("linear_augmented",), features="pixels", **out
    )
    refused("no folder|not prepared|unknown data set", run, dataset="nowhere", **out)
    blocked = tmp_path / "file"
    blocked.touch()
    refused("cannot write results", run, out=str(blocked / "x"))


LABELLED = sorted(set(PROTOCOLS) - {"masks", "backgrounds", "health"})


def bench_on(run, **changed):
    return EvaluationContext(
        settings(run, train_images=0, test_images=0, **changed), pretrained.load(run)
    )


def test_missing_labels_and_one_class(run, pictures, tmp_path):
    """Said before anything is encoded."""
    files = sorted(pictures.rglob("*.png"))[:8]
    for folder in (tmp_path / "single" / "only", tmp_path / "flat"):
        folder.mkdir(parents=True)
        for index, file in enumerate(files):
            (folder / f"{index}.png").write_bytes(file.read_bytes())
    single = bench_on(run, dataset=str(tmp_path / "single"))
    slices = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    flat = bench_on(run, dataset=str(tmp_path / "flat"), **slices)
    for name in LABELLED:
        with pytest.raises(UserError, match="one class only"):
            next(PROTOCOLS[name](single))
        with pytest.raises(UserError, match="labels are missing"):
            next(PROTOCOLS[name](flat))


def test_the_published_backgrounds_challenge(run, pictures, tmp_path):
    """Nine classes; `mixed_rand` holds another class's pictures, so it is all wrong."""
    images = sorted(pictures.rglob("*.png"))
    flat = {"original/train": 0, "original/val": 0, "mixed_same/val": 0, "mixed_rand/val": 1}
    for part, shift in flat.items():
        for label in range(9):
            folder = tmp_path / part / f"{label:02d}_class"
            folder.mkdir(parents=True)
            for index in range(2):
                (folder / f"{index}.png").write_bytes(
                    images[2 * ((label + shift) % 9) + index].read_bytes()
                )
    context = bench_on(run, dataset="shapes", backgrounds_dir=str(tmp_path))
    partials = {partial.variant: partial for partial in next(PROTOCOLS["backgrounds"](context))}
    assert list(partials) == ["original", "mixed_same", "mixed_rand", "mixed_same - mixed_rand"]
    assert partials["original"].values == partials["mixed_same"].values
    assert partials["original"].values[0] > partials["mixed_rand"].values[0]
    gap = partials["mixed_same - mixed_rand"]
    assert gap.values[0] > 0
    row = context.row("backgrounds", gap)
    assert (row.settings["train"], row.settings["test"]) == (18, 18)
    assert f"--backgrounds_dir={tmp_path}" in row.command


def test_a_broken_encoder(make_run, tmp_path):
    run = make_run(tmp_path / "broken", masker=False)
    model = pretrained.load(run)
    weights = model.encoder.get_weights()
    weights[0][0] = np.nan
    model.encoder.set_weights(weights)
    pretrained.save(run / "model", model.info, model.encoder)
    refused("NaN", run, protocols=("knn",), out=str(tmp_path / "out"))
    refused("no masker", run, protocols=("masks",), out=str(tmp_path / "out"))
    refused("no projector", run, features="projector", out=str(tmp_path / "out"))
    (run / "model" / "encoder.keras").write_bytes(b"not a model")
    refused("encoder.keras", run, out=str(tmp_path / "out"))


def test_what_is_finished_is_kept(run, tmp_path):
    with pytest.raises(UserError, match="choose k"):
        evaluate(settings(run, protocols=("clustering", "knn"), knn_k=(999,), out=str(tmp_path)))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {r["protocol"] for r in rows} == {"clustering"}


def test_the_program_lists_and_compares(run, make_run, tmp_path, capsys):
    program(EvaluateConfig(list=True))
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].split()[0] == "--protocols"
    assert {line.split()[0] for line in listed[1:]} == set(PROTOCOLS)
    other = make_run(tmp_path / "other", image_size=32)
    for one in (run, other):
        evaluate(settings(one, protocols=("knn",), name="pair"))
    program(EvaluateConfig(compare=(str(run), str(other)), out=str(tmp_path / "pair")))
    shown = capsys.readouterr().out
    assert "McNemar, same test images" in shown
    assert (tmp_path / "pair" / "compare.png").exists()


def test_a_protocol_of_ones_own(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_protocols.py").write_text(
        "from adios_tf.evaluation.context import PartialResult\n"
        "from adios_tf.evaluation.protocols import PROTOCOLS\n"
        "@PROTOCOLS.register('width', 'features per image')\n"
        "def width(context):\n"
        "    yield [PartialResult('width', (float(context.features(context.test).shape[1]),))]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = settings(
        run, protocols=("width",), plugins=("my_protocols",), out=str(tmp_path / "out")
    )
    program(config)
    shown = capsys.readouterr().out
    assert "1600.00" in shown
    assert "--plugins=my_protocols" in shown
    PROTOCOLS._entries.pop("width"), PROTOCOLS._lines.pop("width")
    with pytest.raises(UserError, match="cannot be imported"):
        program(dataclasses.replace(config, plugins=("no_such_module",)))


def test_a_list_after_a_flag():
    assert joined(["--compare", "a", "b", "--name=x"], "compare") == ["--compare=a,b", "--name=x"]
    assert joined(["--run=a"], "compare") == ["--run=a"]
    assert joined(["--compare=a,b"], "compare") == ["--compare=a,b"]


def test_without_labels_health_runs_and_the_rest_is_named(run, pictures, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(pictures.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(file.read_bytes())
    rows = evaluate(EvaluateConfig(run=str(run), dataset=str(flat), out=str(tmp_path / "out")))
    assert {row.protocol for row in rows} == {"health"}
    assert {row.metric for row in rows} >= {"feature_spread", "effective_rank_share", "overlap"}
    assert all(row.settings["verdict"] and row.settings["healthy"] for row in rows)
    assert "left out knn, linear, clustering: 48 of 48 train labels are missing" in (
        capsys.readouterr().out
    )
    with pytest.raises(UserError, match="labels are missing"):  # asked for by name, and alone
        evaluate(settings(run, dataset=str(flat), protocols=("knn",), out=str(tmp_path / "knn")))
