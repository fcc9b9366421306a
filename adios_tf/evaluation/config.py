"""Every setting of an evaluation, in one frozen dataclass; each field is a flag.

The group of a flag says whose it is: a protocol's rows are made by its own group and the
shared ones, so these are what the command beside a row spells out.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from adios_tf.cli import flag_lines, program, setting
from adios_tf.evaluation.backgrounds import VARIANTS
from adios_tf.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from adios_tf.evaluation.defaults import AUGMENTATIONS, HEADS, LEARNING_RATES, REPORTS, STRENGTHS
from adios_tf.evaluation.presets import PRESETS

# Groups that every protocol reads; "output" says where results go and makes no number.
SHARED = ("input", "data", "features")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `adios_tf.evaluation.runner.evaluate` and flags of `bin/evaluate.py`."""

    run: str = setting("", "run folder or exported model to evaluate", "input", common=True)
    protocols: tuple[str, ...] = setting(
        ("knn", "linear", "clustering"), "what to evaluate; see --list", "input", common=True
    )
    seeds: tuple[int, ...] = setting(
        (0,), "of everything random; several give mean and spread", "input", least=0, common=True
    )
    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "input")
    protocol_preset: str = setting(
        "none",
        "settings of a published protocol; what is given beside it wins",
        "input",
        choices=tuple(PRESETS),
    )

    compare: tuple[str, ...] = setting(
        (), "put the results of these runs side by side", "output", common=True
    )
    name: str = setting("", "results go to RUN/evaluation/NAME; empty = the data set", "output")
    out: str = setting("", "results go to this folder instead", "output", common=True)
    save_classifier: bool = setting(
        False, "linear: keep the classifier in the run folder, for exports", "output"
    )
    list: bool = setting(False, "print the protocols and stop", "output", common=True)

    dataset: str = setting(
        "",
        "catalog or TFDS name, or a folder of images; empty = pretraining's",
        "data",
        common=True,
    )
    data_dir: str = setting(
        "", "where prepared TFDS data sets lie; empty = TFDS's own", "data", common=True
    )
    download: bool = setting(False, "let TFDS download a data set that is not there", "data")
    class_list: str = setting("", "file of class names that restricts the data set", "data")
    train_split: str = setting("", "split to learn from; empty = the catalog's", "data")
    test_split: str = setting("", "split to test on; empty = the catalog's", "data")
    train_images: int = setting(
        0, "learn from the first so many images; 0 = all", "data", least=0, common=True
    )
    test_images: int = setting(
        0, "test on the first so many images; 0 = all", "data", least=0, common=True
    )
    skip_broken: bool = setting(False, "leave unreadable images out, and count them", "data")
    image_size: int = setting(0, "side of the images; 0 = pretraining's", "data", least=0)
    resize: str = setting(
        "auto",
        "how an image becomes a square; auto = squash, unless a preset says otherwise",
        "data",
        choices=("auto", "squash", "center_crop"),
    )
    crop_ratio: float = setting(
        0.0, "share of the shorter side that center_crop keeps; 0 = 0.875", "data", least=0, most=1
    )
    interpolation: str = setting(
        "bicubic", "of resizing, antialiased", "data", choices=("bicubic", "bilinear")
    )
    mean: tuple[float, ...] = setting((), "of each channel in [0,1]; empty = pretraining's", "data")
    std: tuple[float, ...] = setting((), "deviation of each channel; as --mean", "data", above=0)

    features: str = setting(
        "backbone",
        "what is probed: the encoder, its projector, or raw pixels as a baseline",
        "features",
        choices=("backbone", "projector", "pixels"),
    )
    batch_size: int = setting(256, "images encoded at a time", "features", least=1)

    knn_k: tuple[int, ...] = setting((20, 200), "numbers of neighbors", "knn", least=1)
    knn_temperature: float = setting(0.07, "T of the cosine weights", "knn", above=0)
    knn_distance: tuple[str, ...] = setting(("cosine",), "cosine, euclidean or both", "knn")

    probe_strengths: tuple[float, ...] = setting(
        STRENGTHS, "l2 regularization to choose from", "linear", above=0
    )
    validation_fraction: float = setting(
        0.1, "share of train held out where something is chosen", "linear", above=0, most=0.5
    )

    sgd_learning_rates: tuple[float, ...] = setting(
        LEARNING_RATES, "to choose from, trained at once", "linear_sgd", above=0
    )
    sgd_epochs: int = setting(100, "passes over train", "linear_sgd", least=1)
    sgd_decay_epochs: tuple[int, ...] = setting(
        (60, 80), "epochs at which the rate falls to a tenth", "linear_sgd", least=0
    )
    sgd_batch_size: int = setting(128, "images per update", "linear_sgd", least=1)
    sgd_augmentation: str = setting(
        "auto",
        "linear_augmented: resized crops, or small shifts as on CIFAR; auto = shifts up to 32 px",
        "linear_sgd",
        choices=AUGMENTATIONS,
    )
    sgd_min_scale: float = setting(
        0.08, "linear_augmented: smallest area of a crop", "linear_sgd", above=0, most=1
    )
    sgd_optimizer: str = setting("sgd", "with momentum 0.9", "linear_sgd", choices=("sgd", "lars"))
    sgd_weight_decay: float = setting(0.0, "coupled, as in PyTorch", "linear_sgd", least=0)
    sgd_eta: float = setting(0.001, "trust coefficient of LARS", "linear_sgd", above=0)
    sgd_clip: bool = setting(False, "LARS never exceeds plain SGD", "linear_sgd")
    sgd_head: str = setting("zeros", "first weights", "linear_sgd", choices=HEADS)
    sgd_standardize: bool = setting(
        True, "shift and scale features by train statistics", "linear_sgd"
    )
    sgd_drop_last: bool = setting(False, "leave incomplete batches out", "linear_sgd")
    sgd_report: str = setting(
        "last", "epoch that counts; best is chosen on test data", "linear_sgd", choices=REPORTS
    )

    finetune_epochs: int = setting(30, "passes over the labeled images", "finetune", least=1)
    finetune_steps: int = setting(
        300, "but at least so many updates, for few labels", "finetune", least=1
    )
    finetune_learning_rate: float = setting(0.05, "of SGD, all layers", "finetune", above=0)
    finetune_optimizer: str = setting(
        "sgdw",
        "with momentum 0.9: decoupled weight decay, PyTorch's SGD, or LARS",
        "finetune",
        choices=("sgdw", "sgd", "lars"),
    )
    finetune_weight_decay: float = setting(5e-4, "of the optimizer", "finetune", least=0)
    finetune_eta: float = setting(0.001, "trust coefficient of LARS", "finetune", above=0)
    finetune_clip: bool = setting(False, "LARS never exceeds plain SGD", "finetune")
    finetune_warmup_epochs: float = setting(1.0, "linear, from 0", "finetune", least=0)
    finetune_schedule_per_epoch: bool = setting(
        False, "constant rate within an epoch; the first of a warm-up is 0", "finetune"
    )
    finetune_head: str = setting("zeros", "first weights", "finetune", choices=HEADS)
    finetune_drop_last: bool = setting(False, "leave incomplete batches out", "finetune")
    finetune_stem: str = setting(
        "auto",
        "keep it, or replace it by ADIOS's for CIFAR; auto = keep, unless a preset says otherwise",
        "finetune",
        choices=("auto", "keep", "adios_cifar"),
    )
    finetune_batch_size: int = setting(128, "images per update", "finetune", least=1)
    finetune_augmentation: str = setting(
        "auto", "as --sgd_augmentation", "finetune", choices=AUGMENTATIONS
    )
    finetune_min_scale: float = setting(0.3, "smallest area of a crop", "finetune", above=0, most=1)
    batchnorm: str = setting(
        "train",
        "statistics follow the new data, or stay those of pretraining",
        "finetune",
        choices=("train", "frozen"),
    )
    label_fractions: tuple[float, ...] = setting(
        (0.01, 0.1), "semi: shares of the labels", "semi", above=0, most=1
    )

    cluster_seeds: tuple[int, ...] = setting((0, 1, 2), "one k-means each", "clustering", least=0)
    cluster_starts: int = setting(3, "initializations per seed", "clustering", least=1)
    cluster_normalize: bool = setting(False, "l2-normalize features first", "clustering")

    background_variants: tuple[str, ...] = setting(
        VARIANTS, "background variants to test on, where there", "backgrounds"
    )
    backgrounds_dir: str = setting(
        "", "folder of the published backgrounds challenge; empty = --dataset", "backgrounds"
    )
    corruptions: tuple[str, ...] = setting(tuple(CORRUPTIONS), "kinds of corruption", "corruptions")
    severities: tuple[int, ...] = setting(
        SEVERITIES, "1 (mild) to 5", "corruptions", least=1, most=5
    )
    corruption_images: int = setting(
        2000, "corrupt the first so many test images; 0 = all", "corruptions", least=0
    )

    mask_images: int = setting(
        1000, "score the masks of the first so many test images; 0 = all", "masks", least=0
    )

    def preset(self) -> dict[str, Any]:
        """Returns what stands in for the defaults of flags that are not given."""
        return PRESETS[self.protocol_preset]

    @classmethod
    def of(cls, **given: Any) -> "EvaluateConfig":
        """Returns the given settings; a `protocol_preset` stands in for the defaults."""
        return cls(**{**PRESETS[given.get("protocol_preset", "none")], **given})


def command(config: EvaluateConfig, groups: tuple[str, ...], **changed: object) -> str:
    """Returns the command line that makes one row: what departs from the defaults, no more.

    `groups` are the flag groups that matter to the row beside the shared ones, `changed` the
    settings that single it out.
    """
    config = dataclasses.replace(config, **changed)
    group = {f.name: f.metadata["group"] for f in dataclasses.fields(config)}
    unchanged = EvaluateConfig.of(protocol_preset=config.protocol_preset)
    defaults = set(flag_lines(dataclasses.replace(unchanged, protocol_preset="none")))
    words = [program("evaluate")]
    for line in flag_lines(config):
        if group[line[2:].split("=")[0]] in (*SHARED, *groups) and line not in defaults:
            words.append(shlex.quote(line))
    return " ".join(words)


def joined(argv: Sequence[str], flag: str) -> list[str]:
    """Returns arguments with `--flag A B C` written as the `--flag=A,B,C` that absl reads."""
    argv = list(argv)
    if f"--{flag}" not in argv:
        return argv
    start = argv.index(f"--{flag}")
    stop = start + 1
    while stop < len(argv) and not argv[stop].startswith("-"):
        stop += 1
    return [*argv[:start], f"--{flag}={','.join(argv[start + 1 : stop])}", *argv[stop:]]
