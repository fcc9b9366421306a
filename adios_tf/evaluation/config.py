"""Every setting of an evaluation, in one frozen dataclass; each field is a flag.

The group of a flag says whose it is: a protocol's rows are made by its own group and the
shared ones, so these are what the command beside a row spells out.
"""

import dataclasses
import shlex
from collections.abc import Sequence

from adios_tf.cli import flag_lines, setting
from adios_tf.evaluation.backgrounds import VARIANTS
from adios_tf.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from adios_tf.evaluation.defaults import AUGMENTATIONS, LEARNING_RATES, STRENGTHS

# Groups that every protocol reads; "output" says where results go and makes no number.
SHARED = ("input", "data", "features")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `adios_tf.evaluation.runner.evaluate` and flags of `bin/evaluate.py`."""

    # ------------------------------------------------------------------ input
    run: str = setting("", "run folder or exported model to evaluate", "input")
    protocols: tuple[str, ...] = setting(
        ("knn", "linear", "clustering"), "what to evaluate; see --list", "input"
    )
    seeds: tuple[int, ...] = setting(
        (0,), "of everything random; several give mean and spread", "input", least=0
    )
    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "input")

    # ------------------------------------------------------------------ output
    compare: tuple[str, ...] = setting((), "put the results of these runs side by side", "output")
    name: str = setting("", "results go to RUN/evaluation/NAME; empty = the data set", "output")
    out: str = setting("", "results go to this folder instead", "output")
    save_classifier: bool = setting(
        False, "linear: keep the classifier in the run folder, for exports", "output"
    )
    list: bool = setting(False, "print the protocols and stop", "output")

    # ------------------------------------------------------------------ data
    dataset: str = setting(
        "", "catalog or TFDS name, or a folder of images; empty = pretraining's", "data"
    )
    data_dir: str = setting("", "where prepared TFDS data sets lie; empty = TFDS's own", "data")
    download: bool = setting(False, "let TFDS download a data set that is not there", "data")
    class_list: str = setting("", "file of class names that restricts the data set", "data")
    train_split: str = setting("", "split to learn from; empty = the catalog's", "data")
    test_split: str = setting("", "split to test on; empty = the catalog's", "data")
    train_images: int = setting(0, "learn from the first so many images; 0 = all", "data", least=0)
    test_images: int = setting(0, "test on the first so many images; 0 = all", "data", least=0)
    skip_broken: bool = setting(False, "leave unreadable images out, and count them", "data")
    resize: str = setting(
        "squash",
        "how an image becomes a square of the pretraining side",
        "data",
        choices=("squash", "center_crop"),
    )
    crop_ratio: float = setting(
        0.875, "share of the shorter side that center_crop keeps", "data", above=0, most=1
    )

    # ------------------------------------------------------------------ features
    features: str = setting(
        "backbone",
        "what is probed: the encoder, its projector, or raw pixels as a baseline",
        "features",
        choices=("backbone", "projector", "pixels"),
    )
    batch_size: int = setting(256, "images encoded at a time", "features", least=1)

    # ------------------------------------------------------------------ knn
    knn_k: tuple[int, ...] = setting((20, 200), "numbers of neighbors", "knn", least=1)
    knn_temperature: float = setting(0.07, "T of the cosine weights", "knn", above=0)
    knn_distance: tuple[str, ...] = setting(("cosine",), "cosine, euclidean or both", "knn")

    # ------------------------------------------------------------------ linear
    probe_strengths: tuple[float, ...] = setting(
        STRENGTHS, "l2 regularization to choose from", "linear", above=0
    )
    validation_fraction: float = setting(
        0.1, "share of train held out where something is chosen", "linear", above=0, most=0.5
    )

    # ------------------------------------------------------------------ linear_sgd
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

    # ------------------------------------------------------------------ finetune
    finetune_epochs: int = setting(30, "passes over the labeled images", "finetune", least=1)
    finetune_steps: int = setting(
        300, "but at least so many updates, for few labels", "finetune", least=1
    )
    finetune_learning_rate: float = setting(0.05, "of SGD, all layers", "finetune", above=0)
    finetune_weight_decay: float = setting(5e-4, "decoupled", "finetune", least=0)
    finetune_warmup_epochs: float = setting(1.0, "linear, from 0", "finetune", least=0)
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

    # ------------------------------------------------------------------ clustering
    cluster_seeds: tuple[int, ...] = setting((0, 1, 2), "one k-means each", "clustering", least=0)
    cluster_starts: int = setting(3, "initializations per seed", "clustering", least=1)
    cluster_normalize: bool = setting(False, "l2-normalize features first", "clustering")

    # ------------------------------------------------------------------ robustness
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

    # ------------------------------------------------------------------ masks
    mask_images: int = setting(
        1000, "score the masks of the first so many test images; 0 = all", "masks", least=0
    )


def command(config: EvaluateConfig, groups: tuple[str, ...], **changed: object) -> str:
    """Returns the command line that makes one row: what departs from the defaults, no more.

    Args:
      config: the settings of this evaluation.
      groups: flag groups that matter to the row beside the shared ones.
      **changed: settings that single the row out.
    """
    config = dataclasses.replace(config, **changed)
    group = {f.name: f.metadata["group"] for f in dataclasses.fields(config)}
    defaults = set(flag_lines(EvaluateConfig()))
    words = ["python bin/evaluate.py"]
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
