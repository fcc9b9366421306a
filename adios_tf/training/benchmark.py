"""How fast a training step is, what it is made of, and how much memory it takes."""

import dataclasses
import json
import subprocess
import sys
import time
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf import cli
from adios_tf.data import AugmentConfig, Examples, pretrain_dataset, throughput
from adios_tf.reporting.tables import format_table, write_json
from adios_tf.training.build import build_pretrainer
from adios_tf.training.config import BenchmarkConfig, PretrainConfig
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.system import Timed, peak_memory_mb, time_in_turn

PROGRAM = "adios_tf.programs.benchmark"
# masking and update of each timed variant
VARIANTS = {
    "all alternating": ("adversarial", "alternating"),
    "all simultaneous": ("adversarial", "simultaneous"),
    "one alternating": ("adversarial_one", "alternating"),
    "one simultaneous": ("adversarial_one", "simultaneous"),
}
# masking and lean_memory of each weighed variant
MEMORY = {
    "one copy": ("adversarial_one", False),
    "all N": ("adversarial", False),
    "all N, lean_memory": ("adversarial", True),
}


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measures, prints tables and returns the numbers."""
    keras.mixed_precision.set_dtype_policy(config.precision)
    if config.only_memory_of:
        print(json.dumps({"peak_mb": _peak_memory(config, *MEMORY[config.only_memory_of])}))
        return {}
    models = {name: _model(config, masking, update) for name, (masking, update) in VARIANTS.items()}
    batch = _batch(config)
    steps = {name: partial(_step(model, config.xla), batch) for name, model in models.items()}
    peaks = [matrix_product_peak()]
    timed = time_in_turn(steps, config.rounds, lambda: peaks.append(matrix_product_peak()))
    peak = max(peaks)
    pipeline = _pipeline_speed(config)
    rows = []
    for name, model in models.items():
        median = float(np.median(timed[name].wall))
        work = step_operations(model, config)
        rows.append(
            {
                "step": name,
                "seconds": median,
                "least": min(timed[name].wall),
                "most": max(timed[name].wall),
                "cpu_seconds": float(np.median(timed[name].cpu)),
                "images_per_second": config.batch_size / median,
                "share_of_peak": work / median / peak,
                "pipeline_is_faster_by": pipeline / (config.batch_size / median),
            }
        )
    result = {
        "settings": dataclasses.asdict(config),
        "matrix_product_peak_gflops": peak / 1e9,
        "pipeline_images_per_second": pipeline,
        "steps": rows,
        "simultaneous_over_alternating": {
            kind: {clock: _ratio(timed, kind, clock) for clock in Timed._fields}
            for kind in ("all", "one")
        },
    }
    print(format_table(rows))
    print(f"matrix product peak of this machine: {peak / 1e9:.0f} GFLOP/s (float32)")
    print(f"data pipeline alone: {pipeline:.0f} images per second")
    for kind, ratio in result["simultaneous_over_alternating"].items():
        print(
            f"simultaneous / alternating, {kind}: {ratio['wall']:.2f} of the time, "
            f"{ratio['cpu']:.2f} of the processor's work (median of {config.rounds} pairs)"
        )
    if config.memory:
        result["memory"] = _memory(config)
    if config.out:
        write_json(config.out, result)
    return result


def _ratio(timed: dict[str, Timed], kind: str, clock: str) -> float:
    """Median over rounds of simultaneous over alternating, which ran one after the other."""
    words = "simultaneous", "alternating"
    together, by_turns = (np.array(getattr(timed[f"{kind} {word}"], clock)) for word in words)
    return float(np.median(together / by_turns))


def matrix_product_peak(side: int = 2048, rounds: int = 5) -> float:
    """Returns the best floating point operations per second of a float32 matrix product."""
    a = tf.random.normal((side, side))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    product()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def forward_operations(model: keras.Model) -> float:
    """Returns the floating point operations of one image's forward pass, as TensorFlow counts."""
    shape = (1, *model.input_shape[1:])
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    found = profiler.profile(concrete.graph, options=options.with_empty_output().build())
    return float(found.total_float_ops)


def step_operations(model: Pretrainer, config: BenchmarkConfig) -> float:
    """Returns the operations that a step needs at least, for SimCLR's views.

    A backward pass counts twice the forward: once for the activations, once for the weights.
    The encoder's update carries 1 clean and K occluded views forward and back (K = N, or 1);
    the masker's, if alternating, one clean view forward and K forward and back to the image; the
    masker once forward and back.
    """
    encoder = forward_operations(model.objective.encoder)
    masker = forward_operations(model.masking.masker)
    copies = model.masking.num_copies
    passes = 3 * (1 + copies)
    if model.update == "alternating":
        passes += 1 + 2 * copies
    return config.batch_size * (passes * encoder + 3 * masker)


def _model(
    config: BenchmarkConfig, masking: str, update: str, lean_memory: bool = False
) -> Pretrainer:
    names = "backbone image_size batch_size num_masks masker_base objective xla".split()
    same = {name: getattr(config, name) for name in names}
    settings = PretrainConfig(masking=masking, update=update, lean_memory=lean_memory, **same)
    return build_pretrainer(settings, steps_per_epoch=100, num_classes=None)


def _step(model: Pretrainer, xla: bool) -> Any:
    return tf.function(model.train_step, autograph=False, jit_compile=xla)


def _batch(config: BenchmarkConfig) -> dict[str, tf.Tensor]:
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    return {view: tf.random.stateless_normal(shape, (0, 1)) for view in ("view1", "view2")}


def _pipeline_speed(config: BenchmarkConfig) -> float:
    """Images per second of the data pipeline alone, on images of the view's size."""
    side, count = config.image_size, 4 * config.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    labels, index = np.zeros(count, np.int64), np.arange(count)
    parts = {"image": images, "label": labels, "index": index}
    examples = Examples(tf.data.Dataset.from_tensor_slices(parts), count, 1)
    augment = AugmentConfig(image_size=side)
    norm = (0.5,) * 3, (0.25,) * 3
    batches = pretrain_dataset(examples, config.batch_size, augment, augment, *norm)
    return throughput(batches)


def _peak_memory(config: BenchmarkConfig, masking: str, lean_memory: bool) -> float:
    """Peak resident memory of this process in MB after three alternating steps."""
    step = _step(_model(config, masking, "alternating", lean_memory), config.xla)
    batch = _batch(config)
    for _ in range(3):
        step(batch)
    return peak_memory_mb()


def _memory(config: BenchmarkConfig) -> dict[str, Any]:
    """Peak memory of each variant, measured in a process of its own."""
    peaks = {}
    for name in tqdm(MEMORY, desc="peak memory", unit="process"):
        flags = cli.flag_lines(dataclasses.replace(config, out=""))
        command = [sys.executable, "-m", PROGRAM, *flags, f"--only_memory_of={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = json.loads(done.stdout.strip().splitlines()[-1])["peak_mb"]
    base = peaks["one copy"]
    rows = [{"copies": n, "peak_mb": p, "over_one_copy": p / base} for n, p in peaks.items()]
    print(format_table(rows))
    return {"rows": rows}
