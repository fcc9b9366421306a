"""Facts of the data sets: where TFDS keeps them, image side, classes, normalization."""

import dataclasses
from pathlib import Path
from typing import Any

from adios_tf.data.imagenet100 import IMAGENET100
from adios_tf.errors import UserError

# The red deviation of 0.228 is the ADIOS code's; 0.229 is common elsewhere.
IMAGENET = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
STL10 = ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261))
TINY = ((0.480, 0.448, 0.398), (0.277, 0.269, 0.282))
HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    Attributes:
      name: what the user called it.
      tfds_name: name (and config) in TFDS, or "" for a folder.
      folder: directory of images, or "".
      image_size: side of the training views.
      num_classes: labels run from 0 to below it; None = only the data tell, 0 = no labels.
      mean, std: per channel, of images in [0,1].
      train_split, test_split: TFDS split expressions.
      label_train_split: the labeled part of the training data, for evaluation.
      image_key, label_key, mask_key: TFDS feature names; "" = look for one.
      object_labels: "SEQUENCE/PART,PART": the parts of a TFDS feature that lists an image's objects
        whose combinations are labels, several per image; "" = one label per image.
      keep_classes: names of the classes that belong to it, () = all.
      line: one line for `--list`.
    """

    name: str
    tfds_name: str = ""
    folder: str = ""
    image_size: int = 224
    num_classes: int | None = None
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    train_split: str = "train"
    test_split: str = "test"
    label_train_split: str = ""
    image_key: str = ""
    label_key: str = ""
    mask_key: str = ""
    object_labels: str = ""
    keep_classes: tuple[str, ...] = ()
    line: str = ""

    @property
    def embedded(self) -> bool:
        """Whether the package makes the images itself."""
        return self.tfds_name.split("/")[0] == "shapes"


def _entry(
    name: str, line: str, size: int, classes: int | None, norm: tuple, tfds: str = "", **rest: Any
) -> DatasetInfo:
    return DatasetInfo(name, tfds or name, "", size, classes, *norm, line=line, **rest)


CATALOG: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        _entry("shapes", "embedded: textured objects, generated in seconds", 32, None, HALF),
        _entry("cifar10", "50,000 photographs, 32 px, 10 classes", 32, 10, CIFAR10),
        _entry("cifar100", "50,000 photographs, 32 px, 100 classes", 32, 100, CIFAR10),
        _entry(
            "stl10",
            "105,000 photographs at 96 px, 5,000 of them labeled",
            96,
            10,
            STL10,
            train_split="train+unlabeled",
            label_train_split="train",
        ),
        _entry("tiny_imagenet_200", "200 ImageNet classes at 64 px", 64, 200, TINY),
        _entry(
            "imagenet100",
            "100 classes of ImageNet at 224 px (--class_list names others)",
            224,
            100,
            IMAGENET,
            "imagenet2012",
            test_split="validation",
            keep_classes=IMAGENET100,
        ),
        _entry(
            "imagenet100s",
            "the same files, read at 96 px (--class_list names others)",
            96,
            100,
            IMAGENET,
            "imagenet2012",
            test_split="validation",
            keep_classes=IMAGENET100,
        ),
        _entry(
            "imagenet2012",
            "1.28 million photographs, 1,000 classes",
            224,
            1000,
            IMAGENET,
            test_split="validation",
        ),
        _entry("oxford_flowers102", "flowers, 102 classes (transfer)", 224, 102, IMAGENET),
        *(
            _entry(
                f"i_naturalist{year}",
                f"{species:,} species (transfer)",
                224,
                species,
                IMAGENET,
                test_split=held_out,  # the test splits have no labels
            )
            for year, species, held_out in (
                (2017, 5089, "validation"),
                (2018, 8142, "validation"),
                (2021, 10_000, "val"),
            )
        ),
        _entry(
            "clevr",
            "rendered scenes of simple solids; 24 labels, which color and shape are there",
            64,
            24,
            ((0.0,) * 3, (1.0,) * 3),
            test_split="validation",  # the test split tells no objects
            object_labels="objects/color,shape",
        ),
        _entry(
            "clevr_masks",
            "the same with object masks; its TFRecord file lies in --data_dir",
            64,
            24,
            ((0.0,) * 3, (1.0,) * 3),
        ),
        _entry("nuclei_dsb2018", "cell nuclei with instance masks", 96, 0, HALF),
        _entry("weizmann_horses", "horses with figure masks", 96, 0, IMAGENET),
        _entry("camvid_240x180", "road scenes with a class per pixel", 96, 0, IMAGENET),
    )
}


def describe(name: str, image_size: int = 0) -> DatasetInfo:
    """Returns the facts of a data set.

    A data set outside the catalog gets the splits `train` and `test`; its classes and features are
    found on opening. Its side of 224 and normalization, ImageNet's, are what holds where nothing
    was measured; see `adios_tf.training.defaults`.

    Args:
      name: a catalog name, any TFDS name (`name` or `name/config`), or a folder of images,
        as a path or as `folder:PATH`.
      image_size: overrides the side of the views if not 0.

    Raises:
      UserError: no name, or a folder that does not exist. A TFDS name is only checked on opening.
    """
    if not name.removeprefix("folder:"):
        raise UserError(f"--dataset={name}: name a data set or a folder of images")
    if name.startswith("memory:"):
        raise UserError(
            f"{name} stands for images that were handed over in Python: name a data set or a "
            "folder with --dataset"
        )
    if "\n" in name or any("\ud800" <= c <= "\udfff" for c in name):  # bytes that are no UTF-8
        raise UserError(f"--dataset={name!a}: flags.txt cannot hold that name; link to it")
    if name in CATALOG:
        info = CATALOG[name]
    elif name.startswith("folder:") or "/" in name or Path(name).is_dir():
        folder = Path(name.removeprefix("folder:")).expanduser()
        if folder.is_dir():
            info = DatasetInfo(name, folder=str(folder), line="a folder of images")
        elif name.startswith(("folder:", "/", ".", "~")):
            raise UserError(f"--dataset={name}: there is no folder {folder}")
        else:
            info = DatasetInfo(name, tfds_name=name)
    else:
        info = DatasetInfo(name, tfds_name=name)
    return dataclasses.replace(info, image_size=image_size) if image_size else info
