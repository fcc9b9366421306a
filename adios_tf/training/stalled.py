"""Says so when training waits for its data, which looks like a hang otherwise."""

import threading
import time

from tqdm import tqdm

from adios_tf.training.pretrainer import Pretrainer


class StalledInput:
    """While it is entered, a wait of `patience` seconds for one batch is named in one line.

    Args:
      model: tells since when it waits.
      source: what the batches are made of, for the line.
      patience: in seconds.
    """

    def __init__(self, model: Pretrainer, source: str, patience: float = 60.0):
        self._model, self._source, self._patience = model, source, patience
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StalledInput":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        told = None
        while not self._ended.wait(self._patience / 10):
            since = self._model.waiting_since
            if since is None or since == told or time.monotonic() - since < self._patience:
                continue
            told = since
            tqdm.write(
                f"no batch for {self._patience:.0f} s: the data pipeline is stalled, not the "
                f"training; see whether {self._source} can still be read (network or disk) and "
                "whether the machine has memory left"
            )
