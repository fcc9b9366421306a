#!/usr/bin/env python3
"""See adios_tf/programs/evaluate.py, or --help."""

from adios_tf.programs.evaluate import run

if __name__ == "__main__":
    run()
