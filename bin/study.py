#!/usr/bin/env python3
"""See adios_tf/programs/study.py, or --help."""

from adios_tf.programs.study import run

if __name__ == "__main__":
    run()
