"""What can be named in flags."""

from collections.abc import Sequence

from adios_tf.data import CATALOG
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.nets import BACKBONES
from adios_tf.objectives import OBJECTIVES
from adios_tf.registry import import_plugins


def list_words(plugins: Sequence[str] = ()) -> None:
    """Prints objectives, maskings, fills, backbones and data sets with one line each."""
    import_plugins(plugins)
    datasets = {name: info.line for name, info in CATALOG.items()}
    datasets |= {"TFDS name": "any other data set of TFDS", "folder": "a folder of images"}
    groups = {f"--{r.kind}": r.lines() for r in (OBJECTIVES, MASKINGS, FILLS, BACKBONES)}
    for title, lines in {**groups, "--dataset": datasets}.items():
        width = max(map(len, lines))
        print(title)
        for name, line in lines.items():
            print(f"  {name:<{width}}  {line}")
