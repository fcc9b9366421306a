"""From a run to what production gets: files in the formats asked for, and a model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.exporting.card import write_card
from adios_tf.exporting.formats import FORMATS, export_format
from adios_tf.exporting.saved_model import empty_folder


class Exported(NamedTuple):
    """The files that were written, and {format: why it cannot be had}."""

    files: tuple[Path, ...]
    failed: dict[str, str]


def export_run(
    run: Path | str, out: Path | str, formats: Sequence[str] = ("saved_model",)
) -> Exported:
    """Exports a run folder in one or more formats, with README.md and model.json beside them.

    Args:
      run: a run folder of bin/pretrain.py or bin/import_torch.py, or an earlier export.
      out: a folder that is empty or not there.
      formats: names in `FORMATS`. One that cannot be had does not keep the others back.

    Raises:
      UserError: no such run, a folder that holds something, or an unknown format.
    """
    for name in formats:
        _ = FORMATS[name]
    if not formats:
        raise UserError(f"name a format: --format={', '.join(FORMATS)}")
    out = empty_folder(out)
    model = pretrained.load(run)
    written: list[Path] = []
    failed = {}
    # The SavedModel makes the folder, so it comes first.
    for name in sorted(formats, key=lambda name: name != "saved_model"):
        try:
            written += export_format(name, model, out)
        except UserError as error:
            failed[name] = str(error)
    if written:
        names = [path.name if path != out else "saved_model.pb" for path in written]
        write_card(model, run, out, names)
    return Exported(tuple(written), failed)
