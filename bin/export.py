#!/usr/bin/env python3
"""See adios_tf/programs/export.py, or --help."""

from adios_tf.programs.export import run

if __name__ == "__main__":
    run()
