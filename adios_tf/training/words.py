"""What can be named in flags."""

import sys
from collections.abc import Sequence
from importlib import import_module

from adios_tf.data import CATALOG
from adios_tf.errors import UserError
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.nets import BACKBONES
from adios_tf.objectives import OBJECTIVES


def import_plugins(names: Sequence[str]) -> None:
    """Imports a user's own modules, which register objectives, maskings, fills or backbones.

    Raises:
      UserError: a module that cannot be imported.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"--plugins={name} cannot be imported ({error}): name a module that lies in this "
                "directory or on PYTHONPATH, without .py"
            ) from error


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
