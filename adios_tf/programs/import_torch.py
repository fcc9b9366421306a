"""Official PyTorch checkpoints into a run folder, and back.

    python bin/import_torch.py --checkpoint=x.ckpt --args=args.json --out=RUN
    python bin/import_torch.py --checkpoint=moco.pth.tar --image_size=224 --out=RUN
    python bin/import_torch.py --run=RUN --to-torch=back.ckpt

Read are ADIOS's checkpoints (SimCLR, BYOL, SimSiam; ResNet and ViT) and those of MoCo v2 and
MixMask. PyTorch is not needed, and nothing inside the file is ever run.
"""

import dataclasses
import sys

from adios_tf import cli
from adios_tf.cli import setting
from adios_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this program."""

    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "input")
    checkpoint: str = setting("", "PyTorch checkpoint to read", "input")
    args: str = setting("", "ADIOS: the args.json beside the checkpoint", "input")
    image_size: int = setting(224, "MoCo: side of the images", "input", least=16)
    dataset: str = setting("imagenet2012", "MoCo: data set it was trained on", "input")
    allow_missing: tuple[str, ...] = setting(
        (), "parts that may be absent and are drawn anew (encoder, ...)", "input"
    )
    out: str = setting("", "run folder to write", "output")
    run: str = setting("", "run folder to write back with --to-torch", "input")
    to_torch: str = setting("", "PyTorch checkpoint to write from --run", "output")


def main(settings: Settings) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    from adios_tf.exporting.torch_export import export_torch
    from adios_tf.exporting.torch_import import import_torch

    if settings.to_torch:
        if not settings.run:
            raise UserError("--to-torch needs --run, the run folder whose weights to write")
        written = export_torch(settings.run, settings.to_torch)
        print(f"{len(written.state)} arrays in {settings.to_torch}")
        for line in written.warnings:
            print(f"note: {line}")
        return
    if not settings.checkpoint or not settings.out:
        raise UserError("give --checkpoint and --out, or --run and --to-torch")
    done = import_torch(
        settings.checkpoint,
        settings.out,
        settings.args or None,
        image_size=settings.image_size,
        dataset=settings.dataset,
        allow_missing=settings.allow_missing,
    )
    for name, count in done.parts.items():
        print(f"{name}: {count} arrays")
    for name in done.fresh:
        print(f"{name}: not in the checkpoint, random weights")
    for name in done.unmatched:
        print(f"unmatched: {name} (kept for the way back)")
    if done.left:
        print(f"left behind: {', '.join(done.left)}")
    print(f"run folder: {done.run}")


def run() -> None:
    """Runs the program on the command line's arguments."""
    sys.argv[1:] = [arg.replace("--to-torch", "--to_torch", 1) for arg in sys.argv[1:]]
    cli.start(main, Settings, __doc__ or "")


if __name__ == "__main__":
    run()
