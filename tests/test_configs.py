"""Every flagfile below configs/ is a recipe that can be run, and the published ones are right."""

import dataclasses
import re
from pathlib import Path

import pytest

from adios_tf import cli
from adios_tf.data import CATALOG, AugmentConfig, describe
from adios_tf.encoders import BACKBONES
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.nets import build_unet
from adios_tf.nets.unet import default_num_blocks
from adios_tf.objectives import OBJECTIVES
from adios_tf.schedules import build_schedule
from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import check_combination

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.flags"))

# ADIOS's scripts: data, encoder, method: N, width, norm, depth; batch, epochs; rates of encoder
# and masker, decay; weights of sparsity and entropy; temperature or SimSiam's switches (symmetric,
# no mask, both); jitter (brightness, contrast, saturation, hue). Rounded; the files are exact.
PUBLISHED = """
imagenet100s resnet18 simclr    4 32  in 5 128 500 .1113 .01452 1e-4      .9229 .7118 .2  .8 .8 .8 .2
imagenet100s resnet18 simsiam   4 16  gn 4 128 500 .8471 .08023 1e-5      .2003 .2858 FTT .4 .4 .4 .1
imagenet100s resnet18 byol      6 16  gn 5 128 500 .2414 .06599 1e-5      .4038 0     -   .4 .4 .2 .1
imagenet100s vit_tiny simclr    6 16  gn 5 128 300 .1157 .03340 1e-4      .8891 0     .2  .8 .8 .8 .2
imagenet100s vit_tiny simsiam   4 16  gn 4 128 300 .4969 .06656 1e-5      .7218 0     FFT .4 .4 .4 .1
imagenet100s vit_tiny byol      6 8   gn 5 128 300 .2141 .3264  1e-5      .9518 0     -   .4 .4 .2 .1
stl10        resnet18 simclr    6 128 gn 5 256 400 .1323 .01947 8.5047e-5 0     0     .2  .8 .8 .8 .2
stl10        resnet18 simsiam   6 32  gn 5 128 400 .4436 .03830 7.2276e-6 1     0     FTF .5522 .4776 .5784 .2
stl10        resnet18 byol      6 64  gn 5 128 400 .2920 .09281 9.9120e-6 1.7193 0    -   .8 .8 .8 .2
stl10        vit_tiny simclr    4 32  gn 5 128 200 .1025 .09411 1e-4      .3913 0     .2  .8 .8 .8 .2
stl10        vit_tiny simsiam   6 16  gn 4 128 200 .2918 .09317 1e-5      .8582 0     TFF .4 .4 .4 .1
stl10        vit_tiny byol      6 32  gn 5 64  200 .4440 .2046  1e-5      .8269 0     -   .8 .8 .8 .2
imagenet100  resnet18 simclr_s  4 8   gn 6 128 400 .1896 .4988  1e-4      .75   0     .2  .7 .6 .8 .15
imagenet100  resnet18 simsiam_s 4 32  gn 4 128 400 .5425 .4846  1e-5      .5    0     TTT .4 .4 .4 .1
imagenet100  resnet18 byol_s    6 32  gn 6 128 400 .8088 .1295  1e-5      1     0     -   .5 .2 .25 .05
"""  # noqa: E501
ROWS = {"_".join(line.split()[:3]): line.split()[3:] for line in PUBLISHED.strip().splitlines()}
# Out, hidden, predictor.
HEADS = {"simclr": (128, 2048, None), "simsiam": (2048, 2048, 512), "byol": (256, 4096, 8192)}
OTHER_HEADS = {
    "stl10_resnet18_simclr": (256, 2048, None),
    "stl10_resnet18_simsiam": (256, 2048, 512),
}
SIDES = {"imagenet100s": 96, "stl10": 96, "imagenet100": 224}
MASKER_PARAMETERS = {
    "imagenet100s_resnet18_simclr": 933_284,
    "imagenet100s_resnet18_simsiam": 1_275_540,
    "imagenet100s_resnet18_byol": 394_358,
    "imagenet100s_vit_tiny_simclr": 394_358,
    "imagenet100s_vit_tiny_simsiam": 1_275_540,
    "imagenet100s_vit_tiny_byol": 185_342,
    "stl10_resnet18_simclr": 7_554_182,
    "stl10_resnet18_simsiam": 933_350,
    "stl10_resnet18_byol": 2_495_174,
    "stl10_vit_tiny_simclr": 933_284,
    "stl10_vit_tiny_simsiam": 1_275_574,
    "stl10_vit_tiny_byol": 933_350,
    "imagenet100_resnet18_simclr_s": 240_540,
    "imagenet100_resnet18_simsiam_s": 13_208_612,
    "imagenet100_resnet18_byol_s": 1_174_950,
}


def read(name):
    return cli.parse(PretrainConfig, [f"--flagfile={CONFIGS / name}"])


def published(name):
    return read(f"adios/{name}.flags")


@pytest.mark.parametrize("name", FILES)
def test_it_can_be_run(name):
    config = read(name)
    assert config.run_dir
    assert config.objective in OBJECTIVES
    assert config.masking in MASKINGS
    assert config.fill in FILLS
    assert config.backbone in BACKBONES
    assert config.dataset in CATALOG
    check_combination(config)
    build_schedule(
        config.schedule,
        config.learning_rate,
        config.epochs,
        10,
        warmup_epochs=config.warmup_epochs,
        warmup_start=config.warmup_start,
        milestones=config.milestones,
    )
    side = describe(config.dataset, config.image_size).image_size
    if MASKINGS[config.masking].trains:
        depth = config.masker_blocks or default_num_blocks(side)
        assert side % 2 ** (depth - 1) == 0
        assert config.masker_norm != "gn" or config.masker_base % 8 == 0
    names = {field.name for field in dataclasses.fields(AugmentConfig)}
    chosen = {k: v for k, v in dataclasses.asdict(config).items() if k in names}
    AugmentConfig(**chosen | {"image_size": side})


@pytest.mark.parametrize("name", FILES)
def test_it_is_written_as_flagfiles_must_be(name):
    """Comments stand on lines of their own, no file includes another, no flag is set twice."""
    lines = (CONFIGS / name).read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"--(no)?\w+(=\S+)?", line) for line in settings)
    flags = [line[2:].split("=")[0] for line in settings]
    assert "flagfile" not in flags
    assert len(set(flags)) == len(flags)


def head(name):
    lines = (CONFIGS / name).read_text().splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:end])


@pytest.mark.parametrize("name", FILES)
def test_it_says_what_it_is(name):
    """Each begins with a comment that holds its own command."""
    assert f"--flagfile=configs/{name}" in head(name)
    labels = ("Reproduces:", "Source:", "Hardware:", "Cost:", "Expected result:", "Departs:")
    if name.startswith("adios/") or name in (
        "cifar100.flags",
        "stl10.flags",
        "imagenet100.flags",
        "imagenet100s.flags",
    ):
        assert [label for label in labels if label not in head(name)] == []


# What a masking brings along, beside its own flags: SimSiam's switches speak of occluded views, and
# the high-pass filter belongs to MSCN's masks.
OF_MASKING = {"run_dir", "update", "masker_learning_rate", "high_pass"}
OF_MASKING |= {"symmetric_mask", "no_mask", "both_mask"}
OF_MASKING |= {
    field.name
    for field in dataclasses.fields(PretrainConfig)
    if field.metadata["group"] in ("masking", "fill")
}


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith("study/")])
def test_a_recipe_and_its_baseline_differ_in_the_masking_alone(name):
    config, named = read(name), re.findall(r"Baseline: configs/(\S+)", head(name))
    if config.masking == "none":
        assert name.startswith("plain/")
        assert named == []
        return
    (baseline,) = named
    assert baseline.startswith("plain/")
    theirs = read(baseline)
    assert theirs.masking == "none"
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(theirs)
    assert {key for key in ours if ours[key] != theirs[key]} <= OF_MASKING


def test_crops_are_resized_as_in_the_official_code():
    for name in FILES:
        bilinear = name.startswith(("mixmask/", "mscn/"))
        if bilinear or name.startswith(("adios/", "sequential/")):
            assert read(name).interpolation == ("bilinear" if bilinear else "bicubic"), name


def test_the_fifteen_are_there():
    assert {f"adios/{name}.flags" for name in ROWS} == {n for n in FILES if "adios/" in n}
    assert len(ROWS) == len(MASKER_PARAMETERS) == 15


def digits(value):
    """As many as the table has: five for decays and large weights, else four."""
    return {float(f"{value:.4g}"), float(f"{value:.5g}")}


@pytest.mark.parametrize("name", ROWS)
def test_values_of_the_papers_scripts(name):
    config = published(name)
    dataset, rest = name.split("_", 1)
    method = rest.split("_", 1)[1] if rest.startswith("resnet18") else rest.split("_", 2)[2]
    base = method.removesuffix("_s")
    row = iter(ROWS[name])
    assert config.dataset == dataset
    assert config.image_size == SIDES[dataset] == CATALOG[dataset].image_size
    assert config.backbone == rest.removesuffix(f"_{method}")
    assert config.objective == base
    assert config.masking == ("adversarial_one" if method.endswith("_s") else "adversarial")
    assert config.fill == "erase"
    assert config.num_masks == int(next(row))
    assert config.masker_base == int(next(row))
    assert config.masker_norm == next(row)
    assert config.masker_blocks == int(next(row))
    assert config.batch_size == int(next(row))
    assert config.epochs == int(next(row))
    for flag in ("learning_rate", "masker_learning_rate", "weight_decay", "sparsity_weight"):
        assert float(next(row)) in digits(getattr(config, flag)), flag
    alpha2 = float(next(row))
    assert alpha2 in digits(-config.entropy_weight / config.batch_size)
    if alpha2:
        joint = base == "simsiam" and not method.endswith("_s")
        assert config.entropy_kind == ("softmax_joint" if joint else "softmax")
    own = next(row)
    if base == "simclr":
        assert config.temperature == float(own)
    if base == "simsiam":
        switches = (config.symmetric_mask, config.no_mask, config.both_mask)
        assert "".join("FT"[switch] for switch in switches) == own
    for flag in ("brightness", "contrast", "saturation", "hue"):
        assert float(next(row)) in digits(getattr(config, flag)), flag
    assert not list(row)

    out, hidden, predictor = OTHER_HEADS.get(name, HEADS[base])
    assert (config.output_dim, config.hidden_dim) == (out, hidden)
    assert predictor is None or config.predictor_dim == predictor


@pytest.mark.parametrize("name", ROWS)
def test_defaults_of_the_official_code(name):
    """What the scripts leave out, whatever the defaults of our flags become."""
    text = (CONFIGS / "adios" / f"{name}.flags").read_text()
    expected = {
        "min_scale": 0.08,
        "jitter_prob": 0.8,
        "gray_prob": 0.2,
        "blur_prob": 0.5,
        "solarize_prob": 0.0,
        "flip_prob": 0.5,
        "update": "alternating",
        "optimizer": "lars",
        "momentum": 0.9,
        "lars_eta": 0.02,
        "lars_clip": True,
        "schedule": "warmup_cosine",
        "schedule_per_epoch": True,
        "warmup_epochs": 10,
        "warmup_start": 0.003,
        "probe_learning_rate": 0.1,
        "precision": "float32",
    }
    if "simsiam" in name:
        expected["constant_predictor"] = True
    if "byol" in name:
        expected |= {"ema_base": 0.99, "ema_final": 1.0}
    if "resnet18" in name:
        expected |= {"stem": "imagenet", "padding": "torch"}
    if not name.endswith("_s"):
        expected["slot_reduction"] = "sum"
    config = published(name)
    for flag, value in expected.items():
        assert getattr(config, flag) == value, flag
        assert f"\n--{flag}=" in text, flag
    assert config.constant_predictor == ("simsiam" in name)
    assert config.accumulate == 1
    assert config.masked_views == "auto"
    assert config.occluded_keys


@pytest.mark.parametrize("name", ROWS)
def test_parameters_of_the_masker(name):
    config = published(name)
    masker = build_unet(
        config.image_size,
        config.num_masks,
        base=config.masker_base,
        norm=config.masker_norm,
        num_blocks=config.masker_blocks,
    )
    assert masker.count_params() == MASKER_PARAMETERS[name]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("imagenet100s", "imagenet100s_resnet18_simclr"),
        ("imagenet100", "imagenet100_resnet18_simclr_s"),
    ],
)
def test_short_names_are_published_recipes(short, long):
    ours, theirs = dataclasses.asdict(read(f"{short}.flags")), dataclasses.asdict(published(long))
    assert {k for k in ours if ours[k] != theirs[k]} == {"run_dir"}


def test_stl10_says_what_it_changes():
    ours = dataclasses.asdict(read("stl10.flags"))
    theirs = dataclasses.asdict(published("stl10_resnet18_simclr"))
    changed = {k for k in ours if ours[k] != theirs[k]}
    assert changed == {"run_dir", "sparsity_weight", "masker_base"}


def test_run_folders_differ():
    folders = [read(name).run_dir for name in FILES]
    assert len(set(folders)) == len(folders)
