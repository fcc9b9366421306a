"""Compares methods at one fixed budget: trains each with several seeds, evaluates, one table.

    python bin/study.py --base=configs/study/shapes.flags --out=runs/study

Methods are lines of configs/study/methods.txt. Stopped and started again, it goes on.
"""

import functools

from adios_tf import cli
from adios_tf.training.config import StudyConfig


def main(config: StudyConfig) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.training.study import study

    study(config)


run = functools.partial(cli.start, main, StudyConfig, __doc__ or "")

if __name__ == "__main__":
    run()
