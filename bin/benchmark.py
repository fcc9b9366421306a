#!/usr/bin/env python3
"""See adios_tf/programs/benchmark.py, or --help."""

from adios_tf.programs.benchmark import run

if __name__ == "__main__":
    run()
