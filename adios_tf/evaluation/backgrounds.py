"""Background robustness: what remains of the accuracy when the background is exchanged.

Source: the backgrounds challenge (Xiao et al., arXiv 2006.09994); BG-gap = accuracy on
mixed_same (background of another image of the same class) minus on mixed_rand (of any class).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adios_tf.errors import UserError

# The published names, and `only_bg` of the embedded data set.
VARIANTS = (
    *("original", "mixed_same", "mixed_rand", "mixed_next"),
    *("only_fg", "no_fg", "only_bg_b", "only_bg_t", "only_bg"),
)
CLASSES = 9


def background_scores(correct: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the accuracy per variant and, where both mixed variants are there, `bg_gap`.

    `correct` is {variant: [n] bool, whether each image was recognized}; `UserError` for a variant
    without images.
    """
    scores = {}
    for variant, hits in correct.items():
        if not len(hits):
            raise UserError(f"variant {variant!r} has no images")
        scores[variant] = float(np.mean(hits))
    if "mixed_same" in scores and "mixed_rand" in scores:
        scores["bg_gap"] = scores["mixed_same"] - scores["mixed_rand"]
    return scores


def challenge_folders(root: Path | str) -> tuple[Path, dict[str, Path]]:
    """Finds the published data set as its archives unpack it: VARIANT/val/CLASS/image.

    Returns the folder of training images `original/train`, and {variant: folder with one folder per
    class}; `UserError` without variants or training images, or a variant without the nine classes.
    """
    root = Path(root)
    variants = {name: root / name / "val" for name in VARIANTS if (root / name / "val").is_dir()}
    if not variants:
        raise UserError(
            f"no backgrounds challenge in {root}: expected folders such as "
            "original/val/00_dog and mixed_rand/val/00_dog"
        )
    train = root / "original" / "train"
    if not train.is_dir():
        raise UserError(
            f"{train} is missing: the nine-class probe is trained on it; "
            "unpack the IN-9 training images there"
        )
    for folder in (train, *variants.values()):
        found = sum(1 for entry in folder.iterdir() if entry.is_dir())
        if found != CLASSES:
            raise UserError(f"{folder} holds {found} class folders, the challenge has {CLASSES}")
    return train, variants
