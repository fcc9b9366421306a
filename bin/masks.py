#!/usr/bin/env python3
"""See adios_tf/programs/masks.py, or --help."""

from adios_tf.programs.masks import run

if __name__ == "__main__":
    run()
