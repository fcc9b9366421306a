"""Pretrains an encoder against a masker.

    python bin/pretrain.py --flagfile=configs/quickstart.flags

Settings come from a flagfile first and may be overridden behind it. --list shows what
--objective, --masking, --fill, --backbone, --dataset and --recipe can name.
"""

import functools

from adios_tf import cli
from adios_tf.registry import declared, print_table
from adios_tf.training.config import PretrainConfig


def list_names(plugins: tuple[str, ...] = ()) -> None:
    """Prints what flags can name, with one line each; with plugins, theirs too."""
    from adios_tf.data.catalog import CATALOG
    from adios_tf.encoders.names import BACKBONE_LINES

    if plugins:
        cli.quiet_tensorflow()
        from adios_tf.training.methods import registered_lines

        lines = registered_lines(plugins)
    else:
        objectives, masking = declared("objectives"), declared("masking")
        lines = {
            "objective": objectives["OBJECTIVES"],
            "masking": masking["MASKINGS"],
            "fill": masking["FILLS"],
            "backbone": BACKBONE_LINES,
        }
    lines["dataset"] = {name: info.line for name, info in CATALOG.items()}
    lines["dataset"] |= {"TFDS name": "any other data set of TFDS", "folder": "a folder of images"}
    lines["recipe"] = dict(cli.recipes())
    for flag, entries in lines.items():
        print_table(f"--{flag}", entries)


def main(config: PretrainConfig) -> None:
    """Lists, replays or trains; raises `UserError`."""
    if config.list:
        list_names(config.plugins)
        return
    cli.quiet_tensorflow()
    if config.replay:
        from adios_tf.training.replay import replay

        replay(config)
        return
    from adios_tf.training.run import pretrain

    pretrain(config)


run = functools.partial(cli.start, main, PretrainConfig, __doc__ or "")

if __name__ == "__main__":
    run()
