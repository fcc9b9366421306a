"""Serves an export over HTTP, as TensorFlow Serving does, with a page at / to look at masks.

    python bin/serve.py --model=models/adios
    python bin/serve.py --model=models/adios/1 --reference=FOLDER

The first form serves the newest of models/adios/1, models/adios/2, ..., also one that comes later.
Listens on this machine alone unless --host says otherwise. SIGTERM ends it with exit code 0 once
what has arrived is answered, or with 1 after --stop_timeout. See docs/serving.md.
"""

import asyncio
import dataclasses
import functools
import gc
import os
import sys
import warnings

from PIL import Image

from adios_tf import cli
from adios_tf.cli import setting
from adios_tf.errors import UserError
from adios_tf.exporting.limits import Limits


@dataclasses.dataclass(frozen=True)
class Settings(Limits):
    """Flags of this program."""

    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "model")
    model: str = setting("", "SavedModel of bin/export.py, or a folder of versions", "model")
    name: str = setting("adios", "what the API calls it: /v1/models/NAME", "model")
    poll_seconds: float = setting(2.0, "between two looks for a new version", "model", above=0)
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 = every", "network")
    port: int = setting(8501, "port to listen on; 0 = any free one", "network", least=0)
    reference: str = setting("", "data set or folder for nearest neighbors", "reference")
    reference_split: str = setting("", "its split; empty = the catalog's test split", "reference")
    reference_images: int = setting(1000, "the first so many", "reference", least=1)
    data_dir: str = setting("", "where prepared TFDS data sets lie", "reference")


def main(settings: Settings) -> None:
    """Does what the module says; raises `UserError`."""
    cli.quiet_tensorflow()
    if not settings.model:
        raise UserError(f"--model is required: a SavedModel of {cli.program('export')}")
    try:
        from adios_tf.exporting.server import Server, serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise UserError("serving needs aiohttp: pip install 'adios_tf[serve]'") from error
    from adios_tf.exporting.reference_set import read_reference

    # A file is looked at before it is unpacked, and Pillow's warning would be all that a user sees.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    gc.freeze()  # so that collecting what an old version leaves takes no time from requests
    reference = functools.partial(
        read_reference,
        settings.reference,
        split=settings.reference_split,
        data_dir=settings.data_dir,
        limit=settings.reference_images,
    )
    server = Server(
        settings.model,
        settings.name,
        settings,
        reference if settings.reference else None,
        settings.poll_seconds,
    )

    def ready(port: int) -> None:
        shown = settings.host if ":" not in settings.host else f"[{settings.host}]"
        print(f"serving http://{shown}:{port}/ (API: /v1/models/{settings.name})", flush=True)

    asyncio.run(serve(server, settings.host, settings.port, ready))
    sys.stdout.flush()
    os._exit(0)  # everything is answered: a version that is being loaded is not waited for


run = functools.partial(cli.start, main, Settings, __doc__ or "")

if __name__ == "__main__":
    run()
