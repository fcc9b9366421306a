#!/usr/bin/env python3
"""What has an encoder learned? Evaluates a run folder or an exported model.

python bin/evaluate.py --run=RUN --protocols=knn,linear,clustering
python bin/evaluate.py --compare RUN1 RUN2 ...
"""

import sys

from adios_tf import cli
from adios_tf.evaluation.config import EvaluateConfig, joined


def main(config: EvaluateConfig) -> None:
    cli.quiet_tensorflow()  # only now: --help and mistakes in flags do not wait for it
    from adios_tf.evaluation.runner import program

    program(config)


if __name__ == "__main__":
    sys.argv[1:] = joined(sys.argv[1:], "compare")
    cli.start(main, EvaluateConfig, __doc__)
