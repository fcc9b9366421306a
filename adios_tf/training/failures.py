"""What the machine does to a run, as one line that says what to do."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from adios_tf.errors import UserError, user_error

_WRITING = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
)


def _not_written(error: Exception, folder: Path) -> str | None:
    """Why something in the folder could not be written, if that is what the error says.

    TensorFlow and HDF5 tell it in words only.
    """
    file = getattr(error, "filename", None)
    if file is not None and not Path(os.fsdecode(file)).is_relative_to(folder):
        return None
    number = getattr(error, "errno", None)
    names = (os.strerror(n) for n in _WRITING if n == number or os.strerror(n) in str(error))
    return next(names, None)


@contextlib.contextmanager
def enough_memory(then: Callable[[], str]) -> Iterator[None]:
    """Turns a lack of memory into `UserError`; `then` says how the run goes on."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError(
            "out of memory: lower --batch_size (with --accumulate, if its effect is to stay), "
            "--num_masks or the widths of the networks, or pass --lean_memory, "
            f"--precision=mixed_bfloat16 or --cache=no; {then()}"
        ) from error


@contextlib.contextmanager
def explained(folder: Path, last_saved: Callable[[], Path | None]) -> Iterator[None]:
    """Turns a full disk, a read-only folder, a lack of memory or of an image into `UserError`.

    Args:
      folder: the run's.
      last_saved: returns the newest checkpoint, or None.
    """

    def then() -> str:
        saved = last_saved()
        return f"the run goes on from {saved.name}" if saved else "it starts anew"

    try:
        yield
    except (OSError, tf.errors.OpError, MemoryError) as error:
        if (mistake := user_error(error)) is not None:
            raise UserError(f"{mistake}; {then()}") from error
        reason = _not_written(error, folder)
        if reason is not None:
            raise UserError(
                f"cannot write {getattr(error, 'filename2', None) or folder} ({reason}): free "
                f"space or mend the permissions and repeat the command; {then()}"
            ) from error
        with enough_memory(then):
            raise
