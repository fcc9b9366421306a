"""Runs protocols on a saved encoder: one table, JSON, CSV and plots."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adios_tf import cli, pretrained
from adios_tf.errors import NoLabels, UserError
from adios_tf.evaluation import robustness  # noqa: F401  registers its protocols
from adios_tf.evaluation.compare_runs import compare_runs
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.context import EvaluationContext
from adios_tf.evaluation.plots import plot_corruptions, plot_rows
from adios_tf.evaluation.presets import preset_line
from adios_tf.evaluation.protocols import PROTOCOLS
from adios_tf.evaluation.results import Row, text_table, write_results
from adios_tf.registry import import_plugins
from adios_tf.run_folder import RESULTS, RunFolder


def evaluate(config: EvaluateConfig) -> list[Row]:
    """Evaluates one saved encoder and returns the rows, in order.

    Results are written after every piece of work into RUN/evaluation/NAME (or `config.out`):
    results.json, results.csv, table.txt, plots. Rows that are there already stay unless the same
    command makes them again. Protocols that need labels are left out where there are none, with a
    line that names them; where the default ones are, `health` comes in their place. For `UserError`
    see the protocols; what was finished before is kept.
    """
    if not config.run:
        raise UserError(f"name what to evaluate: --run=RUN, of {cli.program('pretrain')}")
    if not config.protocols:
        raise UserError(f"name protocols to run: --protocols={','.join(PROTOCOLS)}")
    if not config.seeds or not config.cluster_seeds:
        raise UserError("name at least one seed in --seeds and --cluster_seeds")
    import_plugins(config.plugins)
    model = pretrained.load(config.run)
    for name in config.protocols:
        _ = PROTOCOLS[name]
    config = resolved(config, model.info)
    folder = Path(config.out) if config.out else results_folder(config)
    writable(folder)
    started = time.perf_counter()
    context = EvaluationContext(config, model)
    facts = {k: v for k, v in model.info.items() if isinstance(v, str | int | float)}
    header = {"run": config.run, "encoder": facts, "image": str(context.spec)}
    header |= {"mean": context.spec.mean, "std": context.spec.std}
    print(
        f"{config.run} on {config.dataset}: {context.train.count} train and {context.test.count} "
        f"test images, {context.spec}, features {config.features}"
    )
    if config.protocol_preset != "none":
        print(preset_line(config))
    rows: list[Row] = []
    left_out: dict[str, NoLabels] = {}

    def work(name: str) -> None:
        since = time.perf_counter()
        for partials in PROTOCOLS[name](context):
            spent = time.perf_counter() - since
            rows.extend(dataclasses.replace(context.row(name, d), seconds=spent) for d in partials)
            header["seconds"] = round(time.perf_counter() - started, 1)
            write_results(folder, rows, header)
            since = time.perf_counter()

    for name in config.protocols:
        try:
            work(name)
        except NoLabels as error:
            left_out[name] = error
    if left_out:
        print(f"left out {', '.join(left_out)}: {next(iter(left_out.values()))}")
        if config.protocols == EvaluateConfig.protocols:
            work("health")
    if not rows:
        raise next(iter(left_out.values()))
    records = write_results(folder, rows, header)
    plot_rows(records, folder / "results.png")
    if context.corruption_curve:
        plot_corruptions(*context.corruption_curve, folder / "corruptions.png")
    print(text_table([row.record() for row in rows]))
    print(f"written to {folder} ({RESULTS}, results.csv, table.txt, results.png)")
    return rows


def resolved(config: EvaluateConfig, info: Mapping[str, Any]) -> EvaluateConfig:
    """Returns the settings with the data set of pretraining where none was named."""
    if config.dataset:
        return config
    if not info.get("dataset"):
        raise UserError("this model does not say what it was pretrained on: name --dataset")
    flags = RunFolder(config.run).settings()
    return dataclasses.replace(
        config,
        dataset=info["dataset"],
        data_dir=config.data_dir or flags.get("data_dir", ""),
        class_list=config.class_list or flags.get("class_list", ""),
    )


def results_folder(config: EvaluateConfig) -> Path:
    """Returns RUN/evaluation/NAME; the name is that of the data set where none was given."""
    name = config.name or Path(config.dataset.removeprefix("folder:")).name
    return RunFolder(config.run).evaluation(name)


def writable(folder: Path) -> None:
    """Makes the folder; raises `UserError` before any work where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write results to {folder} ({error.strerror}): name another with --out"
        ) from error


def program(config: EvaluateConfig) -> None:
    """Compares runs or evaluates one, as the settings say."""
    if config.compare:
        runs = (*filter(None, [config.run]), *config.compare)
        out = Path(config.out) if config.out else RunFolder(runs[0]).evaluation("compared")
        writable(out)
        print(compare_runs(runs, out))
        print(f"written to {out} (compare.txt, compare.json, compare.csv, compare.png)")
    else:
        evaluate(config)
