"""SIGTERM and SIGINT: finish the step, save, and end so that the same command goes on."""

import signal
import threading
from types import FrameType

import keras

from adios_tf.errors import Stopped


class StopSignals(keras.callbacks.Callback):
    """While it is entered, the first signal ends the run by `Stopped`, between two updates.

    A signal that comes inside an update is heeded at its end, any other at once. A second signal
    finds the system's own handling back in place and ends the process as it stands, which loses
    nothing that was saved.

    Args:
      several: whether several workers train together. They learn of each other's signals with the
        next update, and all end after that one.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self._received, self._in_step, self._before = "", False, {}
        self._several = several

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._before = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._received = signal.Signals(number).name
        if not self._in_step and not self._several:
            self._stop()

    def _stop(self) -> None:
        by = self._received or "a signal to another worker"
        raise Stopped(f"stopped by {by}; repeat the command to go on")

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._in_step = True
        if self._several:
            self.model.stopping = bool(self._received)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._in_step = False
        if self.model.stopping if self._several else self._received:
            self._stop()
