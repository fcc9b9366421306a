"""What has an encoder learned? Evaluates a run folder or an exported model.

python bin/evaluate.py --run=RUN --protocols=knn,linear,clustering
python bin/evaluate.py --compare RUN1 RUN2 ...
"""

import sys

from adios_tf import cli
from adios_tf.evaluation.config import EvaluateConfig, joined
from adios_tf.registry import declared, print_table


def main(config: EvaluateConfig) -> None:
    """Lists, compares or evaluates; raises `UserError`."""
    if config.list and not config.plugins:
        print_table("--protocols", declared("evaluation")["PROTOCOLS"])
        return
    cli.quiet_tensorflow()
    from adios_tf.evaluation.protocols import PROTOCOLS
    from adios_tf.evaluation.runner import program

    if config.list:
        print_table("--protocols", PROTOCOLS.lines())
    else:
        program(config)


def run() -> None:
    """Runs the program on the command line's arguments."""
    sys.argv[1:] = joined(sys.argv[1:], "compare")
    cli.start(main, EvaluateConfig, __doc__ or "")


if __name__ == "__main__":
    run()
