"""Measures the training step: time, share of the machine's peak, memory, data pipeline.

    python bin/benchmark.py

The variants are timed in turn, so that their ratios hold when the machine's speed drifts.
"""

from adios_tf import cli

cli.quiet_tensorflow()

from adios_tf.training.benchmark import BenchmarkConfig, benchmark

if __name__ == "__main__":
    cli.start(benchmark, BenchmarkConfig, __doc__)
