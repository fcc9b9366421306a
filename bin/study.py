"""Compares methods at one fixed budget: trains each with several seeds, evaluates, one table.

    python bin/study.py --base=configs/study/shapes.flags --out=runs/study

Methods are lines of configs/study/methods.txt. Stopped and started again, it goes on.
"""

from adios_tf import cli

cli.quiet_tensorflow()

from adios_tf.training.study import StudyConfig, study

if __name__ == "__main__":
    cli.start(study, StudyConfig, __doc__)
