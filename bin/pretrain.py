#!/usr/bin/env python3
"""See adios_tf/programs/pretrain.py, or --help."""

from adios_tf.programs.pretrain import run

if __name__ == "__main__":
    run()
