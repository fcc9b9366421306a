#!/usr/bin/env python3
"""See adios_tf/programs/serve.py, or --help."""

from adios_tf.programs.serve import run

if __name__ == "__main__":
    run()
