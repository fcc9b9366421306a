"""Features of a folder of images, as one file: NPZ, CSV, Parquet, or for TensorBoard's projector.

    python bin/embed.py --run=RUN --images=FOLDER --out=features.npz

Takes up where it stopped. See docs/export.md for what the file holds.
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
    run: str = setting("", "run folder", "input")
    model: str = setting("", "export, in the place of --run", "input")
    images: str = setting("", "folder of images; folders below it count", "input")
    skip_broken: bool = setting(False, "leave unreadable images out, and count them", "input")
    batch_size: int = setting(32, "images at a time", "input", least=1)
    out: str = setting("", "file to write, ending in .npz, .csv, .parquet or .tsv", "output")


def main(settings: Settings) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.exporting.embeddings import embed

    run = settings.run or settings.model
    if not (run and settings.images and settings.out):
        raise UserError("--run (or --model), --images and --out are required")
    done = embed(run, settings.images, settings.out, settings.batch_size, settings.skip_broken)
    count, width = done.features.shape
    print(f"{settings.out}: {count} images, {width} features each, {len(done.broken)} broken")


run = functools.partial(cli.start, main, Settings, __doc__ or "")

if __name__ == "__main__":
    run()
