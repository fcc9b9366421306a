"""Hands a pretrained model over: a SavedModel that needs neither adios_tf nor Keras.

    python bin/export.py --run=RUN --out=models/adios/1
    python bin/export.py --run=RUN --out=DIR --format=saved_model,keras,weights,litert,onnx

Preprocessing is inside. README.md in the folder lists the signatures.
"""

import dataclasses
import functools

from adios_tf import cli
from adios_tf.cli import setting
from adios_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this program."""

    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "input")
    run: str = setting("", "run folder to export", "input")
    out: str = setting("", "folder to write; new or empty", "output")
    format: tuple[str, ...] = setting(
        ("saved_model",), "one or more of saved_model, keras, weights, litert, onnx", "output"
    )


def main(settings: Settings) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.exporting.formats import export_run

    if not settings.run or not settings.out:
        raise UserError("--run and --out are required")
    done = export_run(settings.run, settings.out, settings.format)
    for path in done.files:
        print(path)
    if done.failed:
        raise UserError("; ".join(done.failed.values()))
    print(f"model card: {settings.out}/README.md")


run = functools.partial(cli.start, main, Settings, __doc__ or "")

if __name__ == "__main__":
    run()
