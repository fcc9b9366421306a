"""Masks for a folder of images: palette PNG, NPZ, overlay pictures, a contact sheet.

    python bin/masks.py --run=RUN --images=FOLDER --out=MASKS

Takes up where it stopped. See docs/export.md for what the files hold.
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
    run: str = setting("", "run folder or export with a masker", "input")
    images: str = setting("", "folder of images; folders below it count", "input")
    out: str = setting("", "folder to write", "output")
    kinds: tuple[str, ...] = setting(
        ("png", "npz", "overlay"), "one or more of png, npz, overlay", "output"
    )
    batch_size: int = setting(32, "images at a time", "output", least=1)
    overwrite: bool = setting(False, "make everything anew", "output")


def main(settings: Settings) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.data.folders import shown
    from adios_tf.exporting.mask_files import write_masks

    if not (settings.run and settings.images and settings.out):
        raise UserError("--run, --images and --out are required")
    done = write_masks(
        settings.run,
        settings.images,
        settings.out,
        settings.kinds,
        settings.batch_size,
        settings.overwrite,
    )
    print(f"{done.done} images, {done.kept} were there already, {len(done.broken)} broken")
    for name, reason in done.broken.items():
        print(f"cannot read {shown(name)}: {reason}")
    print(f"contact sheet: {done.index}")


run = functools.partial(cli.start, main, Settings, __doc__ or "")

if __name__ == "__main__":
    run()
