"""Serves an export over HTTP, as TensorFlow Serving does, with a page at / to look at masks.

    python bin/serve.py --model=models/adios/1
    python bin/serve.py --model=models/adios/1 --reference=FOLDER

Listens on this machine alone unless --host says otherwise. See docs/serving.md.
"""

import asyncio
import dataclasses

from adios_tf import cli
from adios_tf.cli import setting
from adios_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this program."""

    plugins: tuple[str, ...] = setting((), "modules to import first (own layers, ...)", "model")
    model: str = setting("", "SavedModel written by bin/export.py", "model")
    name: str = setting("adios", "what the API calls it: /v1/models/NAME", "model")
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 = every", "network")
    port: int = setting(8501, "port to listen on; 0 = any free one", "network", least=0)
    max_body_mb: float = setting(16.0, "largest request", "limits", above=0)
    read_timeout: float = setting(10.0, "seconds for a request to arrive", "limits", above=0)
    answer_timeout: float = setting(30.0, "seconds for the model to answer", "limits", above=0)
    max_images: int = setting(128, "images in one request", "limits", least=1)
    batch_size: int = setting(32, "images of concurrent requests taken together", "limits", least=1)
    max_waiting: int = setting(1024, "images that may wait, then 503", "limits", least=1)
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
        from adios_tf.exporting.server import Limits, Server, serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise UserError("serving needs aiohttp: pip install 'adios_tf[serve]'") from error
    from adios_tf.exporting.reference_set import read_reference

    limits = Limits(
        int(settings.max_body_mb * 2**20),
        settings.read_timeout,
        settings.answer_timeout,
        settings.max_images,
        settings.batch_size,
        settings.max_waiting,
    )
    server = Server(settings.model, settings.name, limits)
    if settings.reference:
        server.reference = read_reference(
            settings.reference,
            server.embed,
            settings.reference_split,
            settings.data_dir,
            settings.reference_images,
        )

    def ready(port: int) -> None:
        shown = settings.host if ":" not in settings.host else f"[{settings.host}]"
        print(f"serving http://{shown}:{port}/ (API: /v1/models/{settings.name})", flush=True)

    asyncio.run(serve(server, settings.host, settings.port, ready))


def run() -> None:
    """Runs the program on the command line's arguments."""
    cli.start(main, Settings, __doc__ or "")


if __name__ == "__main__":
    run()
