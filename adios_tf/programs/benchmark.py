"""Measures the training step: time, share of the machine's peak, memory, data pipeline.

    python bin/benchmark.py

The variants are timed in turn, so that their ratios hold when the machine's speed drifts.
"""

import functools

from adios_tf import cli
from adios_tf.training.config import BenchmarkConfig


def main(config: BenchmarkConfig) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.training.benchmark import benchmark

    benchmark(config)


run = functools.partial(cli.start, main, BenchmarkConfig, __doc__ or "")

if __name__ == "__main__":
    run()
