"""Official checkpoints through bin/import_torch.py's functions, to features and masks."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from adios_tf import cli, pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting.torch_export import export_torch
from adios_tf.exporting.torch_file import read_torch_checkpoint, write_torch_checkpoint
from adios_tf.exporting.torch_import import import_torch
from adios_tf.nets import build_projector, build_unet
from adios_tf.nets.torch_weights import weights_to_official
from adios_tf.training.config import PretrainConfig

METHODS = ("simclr_adios", "byol_adios", "simsiam_adios")


def assert_relative(ours, theirs, tolerance=1e-4):
    scale = np.abs(theirs).max()
    assert 0 < scale < np.inf
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, rtol=0, atol=tolerance)


def assert_same_state(one, other):
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def golden_features(golden_file):
    return np.load(golden_file("resnet18_features.npz"))


@pytest.fixture(scope="module", params=METHODS)
def imported(request, golden_file, tmp_path_factory):
    """Returns (method, checkpoint file, what the import said)."""
    method = request.param
    file = golden_file(f"torch_checkpoint_{method}.ckpt")
    absent = () if method == "simclr_adios" else ("encoder", "target_encoder")
    run = tmp_path_factory.mktemp("import") / method
    done = import_torch(file, run, file.with_suffix(".args.json"), allow_missing=absent)
    return method, file, done


def test_features_projections_and_masks_are_the_official_ones(imported, golden_features):
    method, _, done = imported
    g = golden_features
    model = pretrained.load(done.run)
    assert_relative(model.masker(g["x"]), g[f"{method}/masks"])
    embedded = model.projector(g[f"{method}/projector_in"])
    assert_relative(embedded, g[f"{method}/projector_out"])
    classes = model.classifier(g[f"{method}/projector_in"])
    assert_relative(classes, g[f"{method}/classifier_out"])
    if method != "simclr_adios":
        assert_relative(model.predictor(embedded), g[f"{method}/predictor_out"])
    if method == "byol_adios":
        slow = model.target_projector(g[f"{method}/projector_in"])
        assert_relative(slow, g[f"{method}/momentum_projector_out"])
    if method == "simclr_adios":
        features = model.encoder(g["x"])
        assert_relative(features, g[f"{method}/feats"])
        assert_relative(model.projector(features), g[f"{method}/z"])
        # `features` takes images in [0,1] and normalizes them itself.
        images = g["x"] * np.float32(model.info["std"]) + np.float32(model.info["mean"])
        assert_relative(model.features(images), g[f"{method}/feats"])
        assert not done.fresh
    assert done.unmatched == ()


def test_there_and_back_is_exact(imported, tmp_path):
    _, file, done = imported
    written = export_torch(done.run, tmp_path / "back.ckpt")
    back, original = read_torch_checkpoint(tmp_path / "back.ckpt"), read_torch_checkpoint(file)
    assert_same_state(back["state_dict"], original["state_dict"])
    assert_same_state(written.state, original["state_dict"])
    assert written.warnings == ()
    for entry in ("epoch", "global_step", "pytorch-lightning_version"):
        assert back[entry] == original[entry]


def test_the_flags_of_an_import_are_flags_of_pretraining(imported):
    method, _, done = imported
    config = cli.parse(PretrainConfig, [f"--flagfile={done.run / 'pretrain.flags'}"])
    assert (config.objective, config.num_masks) == (method.split("_")[0], 4)
    assert (config.padding, config.stem, config.output_dim) == ("torch", "adios_cifar", 32)


# ------------------------------------------------------------------ other architectures

VIT = {
    "method": "byol_adios_s",
    "encoder": "vit_tiny",
    "dataset": "stl10",
    "img_size": 32,
    "proj_hidden_dim": 8,
    "pred_hidden_dim": 6,
    "output_dim": 4,
    "N": 3,
    "mask_fbase": 8,
    "unet_norm": "no",
    "n_classes": 10,
}


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(size=weight.shape) * 0.05
        weight.assign(np.abs(values) + 1 if "variance" in weight.path else values)
    return model


@pytest.fixture(scope="module")
def vit_state():
    from adios_tf.nets import build_predictor

    def encoder(seed):
        return randomized(build_encoder("vit_tiny", 32, patch=16), seed)

    state = weights_to_official(encoder(0), "vit")
    state |= weights_to_official(randomized(build_projector("byol", 192, 8, 4), 1), "projector")
    state |= weights_to_official(randomized(build_predictor("byol", 4, 6, 4), 2), "predictor")
    state |= weights_to_official(encoder(3), "vit", prefix="momentum_encoder.")
    slow = randomized(build_projector("byol", 192, 8, 4), 4)
    state |= weights_to_official(slow, "projector", prefix="momentum_projector.")
    unet = randomized(build_unet(32, 3, base=8, norm="no"), 5)
    return state | weights_to_official(unet, "unet")


def written(folder, state, args, **entries):
    """Writes a checkpoint and its args; returns both paths."""
    file, beside = folder / "x.ckpt", folder / "args.json"
    write_torch_checkpoint(file, {**entries, "state_dict": state})
    beside.write_text(json.dumps(args))
    return file, beside


def test_vit_with_momentum_networks(tmp_path, vit_state):
    state = vit_state | {"momentum_classifier.weight": np.ones((2, 2), np.float32)}
    file, args = written(tmp_path, state, VIT, optimizer_states=[{}])
    done = import_torch(file, tmp_path / "run", args)
    assert done.unmatched == ("momentum_classifier.weight",)
    assert done.left == ("optimizer_states",)
    model = pretrained.load(tmp_path / "run")
    assert model.info["masking"] == "adversarial_one"
    assert set(model.parts()) == set(pretrained.PARTS) - {"classifier"}
    assert model.features(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 192)
    export_torch(tmp_path / "run", tmp_path / "back.ckpt")
    assert_same_state(read_torch_checkpoint(tmp_path / "back.ckpt")["state_dict"], state)


@pytest.mark.parametrize("head", ["mlp", "single"])
def test_moco_layout(tmp_path, head):
    prefix = "module." if head == "mlp" else ""
    state, rng = {}, np.random.default_rng(0)
    encoders = {}
    for seed, side in enumerate("qk"):
        stem = f"{prefix}encoder_{side}."
        encoders[side] = randomized(
            build_encoder("resnet18", 64, stem="imagenet", padding="torch"), seed
        )
        state |= weights_to_official(encoders[side], "resnet", prefix=stem)
        rows = {"0.": (16, 512), "2.": (8, 16)} if head == "mlp" else {"": (8, 512)}
        for place, shape in rows.items():
            state[f"{stem}fc.{place}weight"] = rng.normal(size=shape).astype("f4")
            state[f"{stem}fc.{place}bias"] = rng.normal(size=shape[:1]).astype("f4")
    queue = {f"{prefix}queue": np.ones((8, 4), "f4"), f"{prefix}queue_ptr": np.array([2])}
    state |= queue
    file = tmp_path / "moco.pth.tar"
    write_torch_checkpoint(file, {"arch": "resnet18", "epoch": 5, "state_dict": state})
    done = import_torch(file, tmp_path / "run", image_size=64, dataset="imagenet100")
    assert done.unmatched == tuple(queue)
    model = pretrained.load(tmp_path / "run")
    assert model.info["objective"] == "moco"
    images = rng.normal(size=(2, 64, 64, 3)).astype("f4")
    features = model.encoder(images)
    np.testing.assert_allclose(features, encoders["q"](images), atol=1e-5)
    projected = np.asarray(features)
    for place in sorted(rows):
        stem = f"{prefix}encoder_q.fc.{place}"
        projected = projected @ state[f"{stem}weight"].T + state[f"{stem}bias"]
        projected = np.maximum(projected, 0) if place == "0." else projected
    assert_relative(model.projector(features), projected)
    export_torch(tmp_path / "run", tmp_path / "back.pth.tar")
    back = read_torch_checkpoint(tmp_path / "back.pth.tar")
    assert_same_state(back["state_dict"], state)
    assert (back["arch"], back["epoch"]) == ("resnet18", 5)
    assert "callbacks" not in back


# ------------------------------------------------------------------ refusals


def refused(match, *args, **kwargs):
    with pytest.raises(UserError, match=match) as error:
        import_torch(*args, **kwargs)
    assert "\n" not in str(error.value)


def test_a_renamed_key_is_named_with_its_new_name(tmp_path, vit_state):
    state = {n.replace("mlp.3.bias", "mlp.3.offset"): a for n, a in vit_state.items()}
    match = r"mask_encoder\.mlp\.3\.bias missing .* mask_encoder\.mlp\.3\.offset is unmatched"
    refused(match, *_as_arguments(tmp_path, state, VIT))
    assert not (tmp_path / "run").exists()


def _as_arguments(folder, state, args):
    file, beside = written(folder, state, args)
    return file, folder / "run", beside


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"N": 4}, r"mask_head\.0\.weight has shape \(3, 8, 1, 1\)"),
        ({"encoder": "resnet18"}, r"encoder\.bn1\.bias and \d+ more missing"),
        ({"encoder": "vit_tyni"}, "did you mean 'vit_tiny'"),
        ({"output_dim": 5}, r"projector\.3\.weight has shape \(4, 8\)"),
        ({"method": "dino"}, "unknown method in --args 'dino'"),
        ({"method": "simsiam_adios"}, r"projector\.4\.bias and 7 more"),
        ({"N": None}, "does not say N"),
        ({"img_size": None}, "does not say img_size"),
        ({"img_size": 64}, r"mask_encoder\.down\.4\.0\.bias and 3 more"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_architecture_is_refused(tmp_path, vit_state, change, match):
    refused(match, *_as_arguments(tmp_path, vit_state, VIT | change))
    assert not (tmp_path / "run").exists()


def test_a_whole_part_that_is_missing(tmp_path, vit_state):
    state = {n: a for n, a in vit_state.items() if not n.startswith("encoder.")}
    file, run, args = _as_arguments(tmp_path, state, VIT)
    refused(r"holds no encoder .* --allow_missing=encoder imports the rest", file, run, args)
    assert import_torch(file, run, args, allow_missing=["encoder"]).fresh == ("encoder",)
    assert pretrained.load(run).info["untrained_parts"] == ["encoder"]


def test_files_that_are_no_official_checkpoints(tmp_path, vit_state):
    file, run, args = _as_arguments(tmp_path, vit_state, VIT)
    refused("needs --args", file, run)
    refused("cannot read --args", file, run, tmp_path / "absent.json")
    args.write_text("{")
    refused("is no JSON", file, run, args)
    args.write_text(json.dumps(VIT))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused("no PyTorch checkpoint, or a damaged one", file, run, args)
    refused("cannot read", tmp_path / "absent.ckpt", run, args)
    for content, match in (
        ({"weights": {}}, "no state_dict"),
        ({"state_dict": {"a": 1}}, "no tensor"),
        ({"state_dict": {"a": np.zeros(2, "f4")}}, "its first name is a"),
    ):
        refused(match, write_torch_checkpoint(file, content), run, args)


def test_a_hostile_checkpoint_is_refused_and_not_run(tmp_path):
    flag = tmp_path / "was_run"

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {flag}",)

    file = tmp_path / "x.ckpt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Bomb()}, 2))
    (tmp_path / "args.json").write_text(json.dumps(VIT))
    refused("was refused", file, tmp_path / "run", tmp_path / "args.json")
    assert not flag.exists()
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, vit_state):
    file, run, args = _as_arguments(tmp_path, vit_state, VIT)
    run.mkdir()
    (run / "thesis.tex").write_text("")
    refused("is not empty", file, run, args)
    assert [p.name for p in run.iterdir()] == ["thesis.tex"]
