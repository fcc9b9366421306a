#!/usr/bin/env python3
"""See adios_tf/programs/embed.py, or --help."""

from adios_tf.programs.embed import run

if __name__ == "__main__":
    run()
