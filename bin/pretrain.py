"""Pretrains an encoder against a masker.

    python bin/pretrain.py --flagfile=configs/quickstart.flags

Settings come from a flagfile first and may be overridden behind it. What the words of
--objective, --masking, --fill, --backbone and --dataset may be: --list.
"""

from adios_tf import cli

cli.quiet_tensorflow()

from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import list_methods
from adios_tf.training.run import pretrain


def main(config: PretrainConfig) -> None:
    if config.list:
        list_methods(config.plugins)
    else:
        pretrain(config)


if __name__ == "__main__":
    cli.start(main, PretrainConfig, __doc__)
