#!/usr/bin/env python3
"""See adios_tf/programs/import_torch.py, or --help."""

from adios_tf.programs.import_torch import run

if __name__ == "__main__":
    run()
