"""Features of a folder of images, as one file."""

import csv
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.exporting.mask_files import answers, folder_images, weights_digest
from adios_tf.registry import unknown_name

ENDINGS = (".npz", ".csv", ".parquet", ".tsv")
_CHUNK = 32  # batches that are saved together


class Embedded(NamedTuple):
    """Names below the folder, their features [n,D] float32, and {broken file: why}."""

    names: tuple[str, ...]
    features: np.ndarray
    broken: dict[str, str]


def embed(
    run: Path | str,
    images: Path | str,
    out: Path | str | None = None,
    batch_size: int = 32,
    skip_broken: bool = False,
) -> Embedded:
    """Returns the features of every image below a folder, and writes them where `out` says.

    The ending of `out` is the format: `.npz` (`names`, `features`), `.csv` and `.parquet` (a column
    `name`, then `f0`, ...), `.tsv` (TensorBoard's projector; `--logdir` is the folder it lies in).
    What is done lies beside `out` until all is, so that the same call goes on where it stopped.

    Args:
      run: a run folder or an export.
      images: the folder.
      out: the file; None = none is written.
      batch_size: images at a time.
      skip_broken: leave out images that cannot be read.

    Raises:
      UserError: no images, an unreadable one, another ending, or no library that writes it.
    """
    root, out = Path(images).expanduser(), out and Path(out).expanduser()
    if out and out.suffix not in ENDINGS:
        raise unknown_name("ending of --out", out.suffix, ENDINGS)
    lacking = [one for one in ("pandas", "pyarrow") if importlib.util.find_spec(one) is None]
    if out and out.suffix == ".parquet" and lacking:
        raise UserError(f"--out={out} needs {' and '.join(lacking)}: pip install pandas pyarrow")
    names, model = folder_images(root), pretrained.load(run)
    mark = weights_digest(model.encoder, *names)[:16]
    parts = out and out.with_name(f"{out.name}.{mark}.parts")
    if parts:
        parts.mkdir(parents=True, exist_ok=True)
    kept, rows, broken = [], [], []
    with tqdm(desc="features", total=len(names), unit="img") as bar:
        for start in range(0, len(names), _CHUNK * batch_size):
            some = names[start : start + _CHUNK * batch_size]
            file = parts and parts / f"{start}-{len(some)}.npz"
            if file and file.exists():
                with np.load(file) as saved:
                    found = [saved[name].tolist() for name in saved.files]
                bar.update(len(some))
            else:
                found = [[], [], []]
                for batch, bad in answers(model, model.encoder, root, some, batch_size):
                    if bad and not skip_broken:
                        name, why = next(iter(bad.items()))
                        raise UserError(f"cannot read {name}: {why}; --skip_broken leaves it out")
                    done = [row[0] for row in batch], [row[-1] for row in batch], bad.items()
                    found = [[*old, *new] for old, new in zip(found, done, strict=True)]
                    bar.update(len(batch) + len(bad))
                if file:
                    _save(file, *found)
            kept, rows, broken = kept + found[0], rows + found[1], broken + found[2]
    if not kept:
        raise UserError(f"none of the {len(names)} images of {root} can be read")
    result = Embedded(tuple(kept), np.asarray(rows, np.float32), dict(broken))
    if out:
        _write(out, result)
        shutil.rmtree(parts)
    return result


def _save(file: Path, names: Sequence[str], features: Any, broken: Sequence) -> None:
    fresh = file.with_name(file.name + ".new")
    with fresh.open("wb") as stream:
        np.savez(stream, names=names, features=np.asarray(features, np.float32), broken=broken)
    fresh.replace(file)


def _write(out: Path, found: Embedded) -> None:
    columns = ["name", *(f"f{n}" for n in range(found.features.shape[1]))]
    if out.suffix == ".npz":
        _save(out, found.names, found.features, list(found.broken.items()))
    elif out.suffix == ".parquet":
        import pandas  # pyright: ignore[reportMissingImports]  (optional)

        table = pandas.DataFrame(found.features, columns=columns[1:])
        table.insert(0, "name", found.names)
        table.to_parquet(out)
    elif out.suffix == ".csv":
        rows = ([n, *row] for n, row in zip(found.names, found.features, strict=True))
        with out.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([columns, *rows])
    else:
        np.savetxt(out, found.features, "%.7g", "\t")
        named = out.with_suffix(".names.tsv")
        named.write_text("\n".join(found.names) + "\n", encoding="utf-8")
        config = f'embeddings {{ tensor_path: "{out.name}" metadata_path: "{named.name}" }}\n'
        (out.parent / "projector_config.pbtxt").write_text(config, encoding="utf-8")
